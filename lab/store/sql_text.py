"""SQL that a person can copy: the same question with its values written out."""

import json
from collections.abc import Sequence
from datetime import date, datetime
from textwrap import dedent
from typing import Any


def literal(value: Any) -> str:
    """A value as DuckDB's SQL writes it.

    Raises:
        ValueError: SQL has no plain way to write it.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if value - value == 0 else f"'{value}'::DOUBLE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime | date):
        return f"'{value.isoformat()}'::TIMESTAMPTZ"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return literal(json.dumps(value, ensure_ascii=False))
    raise ValueError(f"{value!r} cannot be written as SQL.")


def with_values(sql: str, values: Sequence[Any]) -> str:
    """The statement with a literal in place of each `?`. For statements of ours: no `?` stands in their texts."""
    parts = dedent(sql).strip().split("?")
    if len(parts) != len(values) + 1:
        raise ValueError(f"The statement has {len(parts) - 1} marks, but there are {len(values)} values.")
    return "".join(part + mark for part, mark in zip(parts, [*map(literal, values), ""], strict=True))
