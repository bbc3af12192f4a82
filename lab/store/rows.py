"""Rows on their way into the record: checked against the schema and put into plain values."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.store.tables import RUN_TABLES, SCHEMA, columns

_FILLED_IN = {"events": {"time", "level"}, "predictions": {"made_at"}}


def check(table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what has no column: a misspelt name would otherwise be lost without a word."""
    if table not in RUN_TABLES and table != "runs":
        raise ValueError(f"There is no table {table!r} to record into; there are {', '.join(('runs', *RUN_TABLES))}.")
    known = SCHEMA[table]
    for row in rows:
        strangers = [name for name in row if name not in known]
        if strangers:
            raise ValueError(f"Table {table} has no column {', '.join(map(repr, strangers))}.")


def complete(table: str, run_id: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The row as a tuple in the order of the table's columns, with run_id and time filled in."""
    full = {**_defaults(table), **row, "run_id": run_id}
    return tuple(plain(full.get(name)) for name in columns(table))


def _defaults(table: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {name: ("info" if name == "level" else now) for name in _FILLED_IN.get(table, ())}


def plain(value: Any) -> Any:
    """A value that SQL and JSON know: dicts become JSON text, numpy numbers become Python's."""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value
