"""Reading the record: small functions, each one question. All take a cursor, or the database to take one from.

DataFrames carry what does not fit into columns in `.attrs`.
"""

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.errors import RunError
from lab.store.source import Source, cursor_of

if TYPE_CHECKING:
    import pandas


_JSON = ("config", "versions", "sampling")


class Latest(NamedTuple):
    """A metric's newest value and the step it belongs to. The value may be NaN: then that is what happened."""

    value: float
    step: int


def list_runs(source: Source, *, status: str | None = None, limit: int | None = None) -> "pandas.DataFrame":
    """One row per run that is not deleted, newest first: columns of the view `run_summary`."""
    sql = "SELECT * FROM run_summary WHERE ? IS NULL OR status = ? ORDER BY created_at DESC, run_id DESC LIMIT ?"
    with cursor_of(source) as cursor:
        return cursor.execute(sql, [status, status, limit]).df()


def live_runs(source: Source) -> list[dict[str, Any]]:
    """Runs that are queued, running or paused, oldest first, with how far they are and how fast they go.

    `seconds_per_step` is the mean over the last hundred steps, evaluations included.
    """
    sql = """
        WITH live AS (
            SELECT run_id, name, status, total_steps, queue_pos FROM runs
            WHERE status IN ('queued', 'running', 'paused') AND deleted_at IS NULL
        ), steps AS (
            SELECT m.run_id, m.step, m.elapsed_s, max(m.step) OVER (PARTITION BY m.run_id) AS last_step
            FROM metrics m SEMI JOIN live USING (run_id) WHERE m.name = 'train/loss'
        ), pace AS (
            SELECT run_id, max(step) AS step,
                   (max(elapsed_s) - min(elapsed_s)) / nullif(max(step) - min(step), 0) AS seconds_per_step
            FROM steps WHERE step >= last_step - 100 GROUP BY run_id
        ), newest AS (
            SELECT m.run_id,
                   arg_max(value, step) FILTER (m.name = 'val/loss') AS val_loss,
                   arg_max(value, step) FILTER (m.name = 'train/tokens_per_second') AS tokens_per_second
            FROM metrics m SEMI JOIN live USING (run_id)
            WHERE m.name IN ('val/loss', 'train/tokens_per_second') GROUP BY m.run_id
        )
        SELECT live.*, pace.step, pace.seconds_per_step, newest.val_loss, newest.tokens_per_second
        FROM live LEFT JOIN pace USING (run_id) LEFT JOIN newest USING (run_id) ORDER BY live.run_id
    """
    with cursor_of(source) as cursor:
        return cursor.execute(sql).dicts()


def run_row(source: Source, run_id: str) -> dict[str, Any]:
    """Everything the table `runs` says of one run; config and versions as dicts.

    Raises:
        RunError: there is no such run.
    """
    with cursor_of(source) as cursor:
        rows = cursor.execute("SELECT * FROM runs WHERE run_id = ?", [run_id]).dicts()
    if not rows:
        raise RunError(f"The record knows no run {run_id!r}; `lab runs list` shows the runs there are.")
    return _parsed(rows[0])


def latest(source: Source, run_id: str) -> dict[str, Latest]:
    """The newest value of every metric of a run, by name."""
    sql = "SELECT name, value, step FROM latest_metrics WHERE run_id = ? ORDER BY name"
    with cursor_of(source) as cursor:
        return {name: Latest(value, step) for name, value, step in cursor.execute(sql, [run_id]).fetchall()}


def metric_names(source: Source, run_id: str) -> list[str]:
    """The metrics this run has recorded."""
    with cursor_of(source) as cursor:
        found = cursor.execute("SELECT name FROM latest_metrics WHERE run_id = ? ORDER BY name", [run_id])
        return [name for (name,) in found.fetchall()]


def metric_info(source: Source) -> dict[str, dict[str, Any]]:
    """unit, better (lower, higher or None) and description of each known metric, by name."""
    with cursor_of(source) as cursor:
        return {row.pop("name"): row for row in cursor.execute("SELECT * FROM metric_info").dicts()}


def samples(source: Source, run_id: str) -> "pandas.DataFrame":
    """Texts the model wrote at its evaluations, oldest first."""
    return _of_run(source, "samples", run_id, "step, rowid")


def events(source: Source, run_id: str | None) -> "pandas.DataFrame":
    """What happened, oldest first; run_id None: what concerned the whole lab."""
    return _of_run(source, "events", run_id, "rowid")  # in the order of coming in, which no clock can disturb


def checkpoints(source: Source, run_id: str) -> "pandas.DataFrame":
    """The checkpoints that a run keeps: a step's last row counts, and the record also tells of deletions."""
    sql = """
        SELECT * FROM checkpoints WHERE run_id = ?
        QUALIFY row_number() OVER (PARTITION BY step ORDER BY rowid DESC) = 1 AND kind <> 'deleted'
        ORDER BY step
    """
    with cursor_of(source) as cursor:
        return cursor.execute(sql, [run_id]).df()


def predictions(source: Source, run_id: str) -> "pandas.DataFrame":
    """What was expected of this run, and what came: predicted, low, high, actual, who."""
    return _of_run(source, "predictions", run_id, "made_at")


def _of_run(source: Source, table: str, run_id: str | None, order: str) -> "pandas.DataFrame":
    sql = f"SELECT * FROM {table} WHERE run_id IS NOT DISTINCT FROM ? ORDER BY {order}"
    with cursor_of(source) as cursor:
        return cursor.execute(sql, [run_id]).df()


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: json.loads(value) if name in _JSON and value is not None else value for name, value in row.items()}
