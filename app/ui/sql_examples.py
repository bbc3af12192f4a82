"""Questions that people ask of their runs, as SQL to learn from. Each runs on any record, also an empty one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question in words and in SQL."""

    question: str
    sql: str
    teaches: str
    """What to notice in the statement."""


EXAMPLES = (
    Example(
        "Which runs came out best?",
        "SELECT name, status, step, best_val_loss, bits_per_byte, n_params\n"
        "FROM run_summary\n"
        "WHERE best_val_loss IS NOT NULL\n"
        "ORDER BY bits_per_byte\n"
        "LIMIT 20",
        "`run_summary` has one row per run. Bits per byte compare also between tokenizers.",
    ),
    Example(
        "What did the learning rate do?",
        "SELECT learning_rate, count(*) AS runs, min(best_val_loss) AS best, avg(best_val_loss) AS mean\n"
        "FROM pretrain_runs\n"
        "GROUP BY learning_rate\n"
        "ORDER BY learning_rate",
        "`pretrain_runs` has every setting as a column of its own.",
    ),
    Example(
        "How did my newest run learn?",
        "SELECT step, tokens_seen, value AS val_loss\n"
        "FROM metrics\n"
        "WHERE name = 'val/loss' AND run_id = (SELECT max(run_id) FROM run_summary WHERE step IS NOT NULL)\n"
        "ORDER BY step",
        "`metrics` has one row per run, step and figure. A result with a `step` column can be charted.",
    ),
    Example(
        "How much of it was luck?",
        "SELECT corpus, emb_dim, n_layers, learning_rate, max_steps, count(*) AS seeds,\n"
        "       avg(val_loss) AS mean, stddev_samp(val_loss) AS sd\n"
        "FROM pretrain_runs\n"
        "WHERE val_loss IS NOT NULL\n"
        "GROUP BY ALL\n"
        "HAVING count(DISTINCT seed) > 1\n"
        "ORDER BY seeds DESC",
        "The same settings under several seeds. `GROUP BY ALL` groups by whatever is not an aggregate.",
    ),
    Example(
        "Where did the time go?",
        "SELECT name, step, elapsed_s / 60 AS minutes, tokens_per_second, n_params\n"
        "FROM run_summary\n"
        "WHERE elapsed_s IS NOT NULL\n"
        "ORDER BY elapsed_s DESC\n"
        "LIMIT 20",
        "Seconds of training, without pauses.",
    ),
    Example(
        "Which runs still improve at their end?",
        "SELECT r.name, t.best_step, t.last_step, t.best, t.last_value\n"
        "FROM metric_totals t JOIN run_summary r USING (run_id)\n"
        "WHERE t.name = 'val/loss' AND t.best_step = t.last_step\n"
        "ORDER BY t.best",
        "`metric_totals` has first, last, lowest and highest value of each figure, and the steps they belong to.",
    ),
    Example(
        "What did my models write last?",
        "SELECT r.name, s.step, s.prompt, s.text\n"
        "FROM samples s JOIN run_summary r USING (run_id)\n"
        "QUALIFY row_number() OVER (PARTITION BY s.run_id ORDER BY s.step DESC) = 1\n"
        "ORDER BY r.created_at DESC\n"
        "LIMIT 20",
        "`QUALIFY` filters by a window function: here the last sample of each run.",
    ),
    Example(
        "When did induction heads form?",
        "WITH heads AS (\n"
        "    SELECT run_id, step, layer, head, value,\n"
        "           value - lag(value) OVER (PARTITION BY run_id, layer, head ORDER BY step) AS rose\n"
        "    FROM head_stats\n"
        "    WHERE name = 'induction' AND run_id IS NOT NULL\n"
        ")\n"
        "SELECT r.name, h.layer, h.head, max(h.value) AS highest,\n"
        "       arg_max(h.step, h.rose) AS step, max(h.rose) AS rose_there\n"
        "FROM heads h JOIN run_summary r USING (run_id)\n"
        "GROUP BY ALL\n"
        "ORDER BY highest DESC\n"
        "LIMIT 20",
        "`head_stats` has a score for each head at each evaluation. An induction head finds where the present token "
        "stood before and looks at what came after it: 1 is always, chance is about 0.04. `lag` gives the value of the "
        "evaluation before, so the largest rise tells when the head formed.",
    ),
    Example(
        "How good are my guesses?",
        "SELECT r.name, p.predicted, p.low, p.high, p.actual, p.actual - p.predicted AS off,\n"
        "       p.actual BETWEEN p.low AND p.high AS within\n"
        "FROM predictions p JOIN run_summary r USING (run_id)\n"
        "WHERE p.who = 'person' AND p.actual IS NOT NULL\n"
        "ORDER BY p.made_at",
        "A guess before a run is how one learns what a knob does.",
    ),
    Example(
        "What went wrong, and when?",
        "SELECT e.time, r.name, e.step, e.kind, e.message\n"
        "FROM events e LEFT JOIN run_summary r USING (run_id)\n"
        "WHERE e.level <> 'info'\n"
        "ORDER BY e.time DESC\n"
        "LIMIT 50",
        "Events without a run concern the whole lab.",
    ),
)
