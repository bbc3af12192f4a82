"""What was seen inside models, as summaries: `head_stats` and `layer_stats`, and what can be looked into."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lab.store.database import Database
from lab.store.rows import complete
from lab.store.source import Source, cursor_of
from lab.store.sql_text import with_values
from lab.store.tables import columns

if TYPE_CHECKING:
    import pandas


def put_look(
    database: Database, table: str, run_id: str | None, key: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Store one look; an older one with the same key goes.

    Args:
        table: "head_stats" or "layer_stats".
        run_id: None for a model that was not trained here.
        key: `model`, `step` and `text`: what looked at what.
    """
    filled = [complete(table, run_id, {**row, **key}) for row in rows]  # type: ignore[arg-type]
    with database.writing() as cursor:
        same = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in ("run_id", *key))
        cursor.execute(f"DELETE FROM {table} WHERE {same}", [run_id, *key.values()])
        cursor.append(table, columns(table), filled)


def head_history(source: Source, run_id: str, name: str, text: str) -> "pandas.DataFrame":
    """One figure of every head over a run: step, layer, head, value. `attrs`: sql, which yields the same rows."""
    sql = """
        SELECT step, layer, head, any_value(value) AS value FROM head_stats
        WHERE run_id = ? AND name = ? AND text = ? GROUP BY ALL ORDER BY step, layer, head
    """
    with cursor_of(source) as cursor:
        frame = cursor.execute(sql, [run_id, name, text]).df()
    frame.attrs = {"sql": with_values(sql, [run_id, name, text])}
    return frame


def layer_history(source: Source, run_id: str, point: str, name: str, text: str) -> "pandas.DataFrame":
    """One figure of every layer over a run: step, layer, value."""
    sql = """
        SELECT step, layer, any_value(value) AS value FROM layer_stats
        WHERE run_id = ? AND point = ? AND name = ? AND text = ? GROUP BY ALL ORDER BY step, layer
    """
    with cursor_of(source) as cursor:
        return cursor.execute(sql, [run_id, point, name, text]).df()


def place_figures(source: Source, run_id: str, name: str, text: str) -> dict[tuple[int, str], float]:
    """The newest value of one figure at every (layer, point) of a run."""
    sql = """
        SELECT layer, point, arg_max(value, step) FROM layer_stats
        WHERE run_id = ? AND name = ? AND text = ? GROUP BY ALL
    """
    with cursor_of(source) as cursor:
        rows = cursor.execute(sql, [run_id, name, text]).fetchall()
    return {(layer, point): value for layer, point, value in rows}


def runs_with_checkpoints(source: Source) -> "pandas.DataFrame":
    """run_id and name of every run that can be opened, newest first."""
    sql = """
        SELECT run_id, name FROM run_summary s
        WHERE EXISTS (SELECT 1 FROM checkpoints c WHERE c.run_id = s.run_id AND c.kind <> 'deleted')
        ORDER BY created_at DESC, run_id DESC
    """
    with cursor_of(source) as cursor:
        return cursor.execute(sql).df()
