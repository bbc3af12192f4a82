"""Friendly views for people who write SQL: one line per run, and every knob of a run as a column."""

import hashlib

from lab.config import KINDS, Leaf, leaves
from lab.store.cursor import Cursor
from lab.store.totals import COLUMNS

_SQL_TYPES = {int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}


# Kept totals of runs that ended, and those of live runs made from their rows.
METRIC_TOTALS = f"""
WITH totals AS (
    SELECT * FROM run_totals
    UNION ALL
    SELECT {COLUMNS} FROM metrics
    WHERE run_id IN (SELECT run_id FROM runs WHERE summed_at IS NULL)
    GROUP BY run_id, name
)
SELECT t.*, CASE WHEN i.better = 'higher' THEN t.highest ELSE t.lowest END AS best,
       CASE WHEN i.better = 'higher' THEN t.highest_step ELSE t.lowest_step END AS best_step
FROM totals t LEFT JOIN metric_info i USING (name)
"""


# One line per run, also for those in the bin.
ALL_RUNS_SUMMARY = """
SELECT r.run_id, r.name, r.kind, r.status, r.created_at, r.started_at, r.ended_at,
       m.step, r.total_steps, m.tokens_seen, m.elapsed_s,
       m.train_loss, m.val_loss, m.best_val_loss, m.bits_per_byte, m.tokens_per_second,
       r.n_params, r.seed, r.device, r.host, r.parent_run_id, r.parent_step, r.tags, r.note, r.error,
       r.archived_at, r.deleted_at
FROM runs r
LEFT JOIN (
    SELECT run_id,
           max(last_step) AS step,
           max(tokens_seen) AS tokens_seen,
           max(elapsed_s) AS elapsed_s,
           any_value(last_value) FILTER (name = 'train/loss') AS train_loss,
           any_value(last_value) FILTER (name = 'val/loss') AS val_loss,
           any_value(lowest) FILTER (name = 'val/loss') AS best_val_loss,
           any_value(last_value) FILTER (name = 'val/bits_per_byte') AS bits_per_byte,
           any_value(last_value) FILTER (name = 'train/tokens_per_second') AS tokens_per_second
    FROM metric_totals
    GROUP BY run_id
) m USING (run_id)
"""

RUN_SUMMARY = "SELECT * EXCLUDE (deleted_at) FROM all_runs_summary WHERE deleted_at IS NULL"


LATEST_METRICS = "SELECT run_id, name, last_value AS value, last_step AS step FROM metric_totals"


def _knob_column(leaf: Leaf) -> str:
    path = f"r.config->>'$.{leaf.section}.{leaf.name}'"
    kind = "VARCHAR" if leaf.many else _SQL_TYPES.get(leaf.type, "VARCHAR")
    return f"{path if kind == 'VARCHAR' else f'TRY_CAST({path} AS {kind})'} AS {leaf.name}"


def _runs_of(kind: str) -> str:
    knobs = ",\n       ".join(_knob_column(leaf) for leaf in leaves(KINDS[kind]))
    return f"""
SELECT s.run_id, s.name, s.status, s.created_at, s.step, s.train_loss, s.val_loss, s.best_val_loss,
       s.bits_per_byte, s.tokens_per_second, s.elapsed_s, s.n_params,
       {knobs}
FROM run_summary s JOIN runs r USING (run_id)
WHERE s.kind = '{kind}'
"""


def refresh(cursor: Cursor) -> bool:
    """Make the views new where their text has changed: a new knob shows up without a migration.

    Returns:
        Whether anything had to be written.
    """
    wanted = {
        "metric_totals": METRIC_TOTALS,
        "all_runs_summary": ALL_RUNS_SUMMARY,
        "run_summary": RUN_SUMMARY,
        "latest_metrics": LATEST_METRICS,
        **{f"{kind}_runs": _runs_of(kind) for kind in KINDS},
    }
    marks = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in wanted.items()}
    there = dict(cursor.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall())
    if all(there.get(name) == mark for name, mark in marks.items()):
        return False
    with cursor.transaction():
        for name, text in wanted.items():
            cursor.execute(f"CREATE OR REPLACE VIEW {name} AS {text}")
            cursor.execute(f"COMMENT ON VIEW {name} IS '{marks[name]}'")
    return True
