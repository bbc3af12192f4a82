"""Answers in the forms people use: types that Python knows, and text."""

import io
import json
import math
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, StoreError
from lab.files import write_atomically, write_bytes

if TYPE_CHECKING:
    import pyarrow

_WIDTH = 60  # characters of one cell in a text table


def friendly(table: "pyarrow.Table") -> "pyarrow.Table":
    """Sums of whole numbers come as 128-bit decimals: make them plain numbers. Names become unique."""
    import pyarrow

    names: list[str] = []
    arrays = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_decimal(column.type):
            column = _plain_number(column)
        number = 1
        while (unique := name if number == 1 else f"{name}_{number}") in names:
            number += 1
        names.append(unique)
        arrays.append(column)
    return pyarrow.table(arrays, names=names) if arrays else table


def _plain_number(column: "pyarrow.ChunkedArray") -> "pyarrow.ChunkedArray":
    import pyarrow

    if column.type.scale == 0:
        try:
            return column.cast(pyarrow.int64())
        except pyarrow.ArrowInvalid:
            pass  # too large for 64 bits
    return column.cast(pyarrow.float64())


def table_as_text(table: "pyarrow.Table", format: str) -> str:
    """An aligned table, CSV, or a JSON list of objects (numbers that are not finite become null)."""
    if format == "json":
        rows = [{name: _json_value(value) for name, value in row.items()} for row in table.to_pylist()]
        return json.dumps(rows, ensure_ascii=False, indent=2, allow_nan=False)
    if format == "csv":
        import csv

        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows([_text(value) for value in row] for row in _rows(table))
        return buffer.getvalue()
    if format == "table":
        return _aligned(table)
    raise StoreError(f"{format!r} cannot be shown as text: choose table, csv or json, or write it to a file.")


def write_table(table: "pyarrow.Table", path: Path, format: str) -> None:
    """Write the rows to a file, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        if format == "parquet":
            import pyarrow.parquet

            write_atomically(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))
        else:
            write_bytes(path, (table_as_text(table, format).rstrip("\n") + "\n").encode())
    except LabError as error:
        raise StoreError(str(error)) from error


def _aligned(table: "pyarrow.Table") -> str:
    if table.column_names == ["explain_key", "explain_value"]:
        return "\n".join(table.column(1).to_pylist())  # a drawing of the plan
    cells = [table.column_names, *([_cell(value) for value in row] for row in _rows(table))]
    widths = [max(len(row[i]) for row in cells) for i in range(table.num_columns)]
    right = [_is_number(field) for field in table.schema]
    lines = [
        "  ".join(text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def _rows(table: "pyarrow.Table") -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _is_number(field: "pyarrow.Field") -> bool:
    import pyarrow.types as types

    return types.is_integer(field.type) or types.is_floating(field.type)


def _cell(value: Any) -> str:
    """A value on one line, shortened."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = _text(value).replace("\n", "\\n")
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return _text(value)
