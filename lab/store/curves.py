"""One metric's curve for drawing: at most so many points, no spike hidden, the same points while the run grows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from lab.store.flops import flops_per_token
from lab.store.source import Source, cursor_of
from lab.store.sql_text import literal, with_values

if TYPE_CHECKING:
    import pandas

Axis = Literal["step", "tokens_seen", "elapsed_s", "flops"]
AXES = ("step", "tokens_seen", "elapsed_s", "flops")

_RANGE = """
    SELECT count(*) FILTER (isfinite(value)), min(step) FILTER (isfinite(value)),
           max(step) FILTER (isfinite(value)), count(*) FILTER (NOT isfinite(value)),
           list(step ORDER BY step) FILTER (NOT isfinite(value))
    FROM metrics WHERE run_id = ? AND name = ?
"""


def series(
    source: Source,
    run_id: str,
    name: str,
    x: Axis = "step",
    max_points: int = 1_000,
) -> "pandas.DataFrame":
    """One metric's curve in at most `max_points` points, without hiding a spike.

    Steps are put into buckets of a power of two (`step >> k`), so that buckets stay the same while a run grows,
    and every bucket keeps its lowest and highest value. Values that are not finite would poison both: they are
    left out and counted.

    Args:
        x: what the horizontal axis counts; "flops" are those of training so far (`flops_per_token`).

    Returns:
        Columns step (the bucket's last), x (the axis' value there), low, high, mean, last, count, best (lowest value
        so far; highest for a metric whose higher values are better). `attrs`: bucket (steps per point, a power of
        two), rows, nonfinite (how many values were left out), nonfinite_steps (the first 20 of them), sql (a
        statement that yields the same rows).

    Raises:
        RunError: x is "flops", but the run's size is not known.
    """
    if x not in AXES:
        raise ValueError(f"x is {x!r}, but must be one of {', '.join(AXES)}.")
    with cursor_of(source) as cursor:
        axis = f"tokens_seen * {flops_per_token(cursor, run_id)}" if x == "flops" else x
        ((rows, first, last, nonfinite, nonfinite_steps),) = cursor.execute(_RANGE, [run_id, name]).fetchall()
        k = _bucket_bits(rows, first, last, max_points)
        better = cursor.execute("SELECT better FROM metric_info WHERE name = ?", [name]).fetchone()
        so_far = "max(max(value))" if better == ("higher",) else "min(min(value))"
        sql = f"""
            SELECT max(step) AS step, arg_max({axis}, step) AS x, min(value) AS low, max(value) AS high,
                   avg(value) AS mean, arg_max(value, step) AS last, count(*) AS count,
                   {so_far} OVER (ORDER BY step >> {k}) AS best
            FROM metrics WHERE run_id = ? AND name = ? AND isfinite(value)
            GROUP BY step >> {k} ORDER BY step >> {k}
        """
        frame = cursor.execute(sql, [run_id, name]).df()
    frame.attrs = {
        "bucket": 1 << k,
        "rows": rows,
        "nonfinite": nonfinite,
        "nonfinite_steps": (nonfinite_steps or [])[:20],
        "sql": with_values(sql, [run_id, name]),
    }
    return frame


def several(
    source: Source, names: Mapping[str, str], name: str, x: Axis = "step", max_points: int = 1_000
) -> "pandas.DataFrame":
    """One metric of several runs, each as `series` gives it, by one statement for all of them.

    Args:
        names: what each run is called, by run id.

    Returns:
        Columns run (as it is called) and place (of the run among `names`), then those of `series`; runs one below the
        other. `attrs`: nonfinite (how many values were left out) and sql.

    Raises:
        RunError: x is "flops", but the size of one of them is not known.
    """
    if x not in AXES:
        raise ValueError(f"x is {x!r}, but must be one of {', '.join(AXES)}.")
    ids = ", ".join(literal(run_id) for run_id in names)
    with cursor_of(source) as cursor:
        ranges = cursor.execute(
            f"""
            SELECT run_id, count(*) FILTER (isfinite(value)), min(step) FILTER (isfinite(value)),
                   max(step) FILTER (isfinite(value)), count(*) FILTER (NOT isfinite(value))
            FROM metrics WHERE run_id IN ({ids}) AND name = ? GROUP BY run_id
            """,
            [name],
        ).fetchall()
        found = {run_id: numbers for run_id, *numbers in ranges}
        chosen = []
        for place, (run_id, called) in enumerate(names.items()):
            rows, first, last, _ = found.get(run_id, (0, None, None, 0))
            values = [run_id, called, place, _bucket_bits(rows, first, last, max_points)]
            chosen.append([*values, flops_per_token(cursor, run_id)] if x == "flops" else values)
        better = cursor.execute("SELECT better FROM metric_info WHERE name = ?", [name]).fetchone()
        so_far = "max(max(m.value))" if better == ("higher",) else "min(min(m.value))"
        axis = "m.tokens_seen * c.flops" if x == "flops" else f"m.{x}"
        columns = "run_id, run, place, bits" + (", flops" if x == "flops" else "")
        listed = ",\n    ".join("(" + ", ".join(map(literal, row)) + ")" for row in chosen)
        sql = f"""\
WITH chosen({columns}) AS (VALUES
    {listed})
SELECT c.run, c.place, max(m.step) AS step, arg_max({axis}, m.step) AS x,
       min(m.value) AS low, max(m.value) AS high, avg(m.value) AS mean,
       arg_max(m.value, m.step) AS last, count(*) AS count,
       {so_far} OVER (PARTITION BY c.place ORDER BY m.step >> c.bits) AS best
FROM metrics m JOIN chosen c USING (run_id)
WHERE m.run_id IN ({ids}) AND m.name = {literal(name)} AND isfinite(m.value)
GROUP BY c.run, c.place, m.step >> c.bits
ORDER BY c.place, m.step >> c.bits"""
        frame = cursor.execute(sql).df()
    frame.attrs = {"nonfinite": sum(numbers[-1] for numbers in found.values()), "sql": sql}
    return frame


def _bucket_bits(rows: int, first: int | None, last: int | None, max_points: int) -> int:
    """The smallest k for which `step >> k` has at most `max_points` different values."""
    if first is None or last is None or rows <= max_points:
        return 0
    k = 0
    while (last >> k) - (first >> k) + 1 > max_points:
        k += 1
    return k
