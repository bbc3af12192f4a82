"""Segments: small Parquet files that any process can leave in its run's folder.

    outputs/<run>/segments/00000012-metrics-9f86d081884c7d65.parquet

The number orders them, the table says where the rows go (`runs` and `rollback` are read as changes), and the last
part is the beginning of the content's SHA-256, so a damaged or half-copied file shows itself.
A segment is written under another name, synced and renamed: what has its real name is whole.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, StoreError
from lab.files import read_json, write_bytes, write_json
from lab.store.rows import plain
from lab.store.tables import RUN_TABLES, column_type, columns

if TYPE_CHECKING:
    import pyarrow

_NAME = re.compile(r"(\d{8})-([a-z_]+)-([0-9a-f]{16})\.parquet")
_RESERVED = 10_000  # numbers taken at a time, so that keeping the count costs one small write for so many segments


@dataclass(frozen=True)
class Segment:
    """A segment file and what its name says."""

    path: Path
    number: int
    table: str
    hash: str


def list_segments(folder: Path) -> list[Segment]:
    """The finished segments of a folder, in the order they were written."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [(name, _NAME.fullmatch(name)) for name in names]
    segments = [Segment(folder / name, int(m[1]), m[2], m[3]) for name, m in found if m]
    return sorted(segments, key=lambda segment: segment.number)


class SegmentWriter:
    """Writes the segments of one run. Its numbers go on where an earlier process stopped, even if every segment
    of that one has been taken in and deleted."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._counter = folder / "next.json"
        self._next = self._first_free()
        self._reserved = self._next  # nothing is reserved before the first segment

    def write_rows(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows (in the order of the table's columns) as one segment; durable when this returns."""
        self.write_table(table, arrow_rows(table, rows))

    def write_run_changes(self, run_id: str, changes: Sequence[Mapping[str, Any]]) -> None:
        """Write changes of the run's own row, in order, as JSON: each has other columns."""
        texts = [
            json.dumps({name: plain(value) for name, value in change.items()}, ensure_ascii=False, default=str)
            for change in changes
        ]
        self.write_table("runs", _pyarrow().table({"run_id": [run_id] * len(texts), "changes": texts}))

    def write_rollback(self, run_id: str, after_step: int) -> None:
        """Write "delete this run's rows beyond the step" as a segment of its own."""
        self.write_table("rollback", _pyarrow().table({"run_id": [run_id], "after_step": [after_step]}))

    def write_outcomes(self, run_id: str, outcomes: Mapping[str, float]) -> None:
        """Write what came of the run's predictions, by metric, as a segment of its own."""
        rows = {"run_id": [run_id] * len(outcomes), "metric": list(outcomes), "actual": list(outcomes.values())}
        self.write_table("outcomes", _pyarrow().table(rows))

    def write_table(self, kind: str, table: "pyarrow.Table") -> None:
        """Write a finished table as one segment; `kind` is a table, "runs", "rollback" or "outcomes"."""
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        content = buffer.getvalue()
        number = self._take_number()
        name = f"{number:08d}-{kind}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        try:
            write_bytes(self._folder / name, content)
        except LabError as error:
            raise StoreError(str(error)) from error

    def _take_number(self) -> int:
        if self._next >= self._reserved:
            self._reserved = self._next + _RESERVED
            write_json(self._counter, {"next": self._reserved})
        self._next += 1
        return self._next - 1

    def _first_free(self) -> int:
        there = list_segments(self._folder)
        after_last = there[-1].number + 1 if there else 0
        reserved = read_json(self._counter)["next"] if self._counter.exists() else 0
        return max(after_last, reserved)


def arrow_rows(table: str, rows: Sequence[tuple[Any, ...]]) -> "pyarrow.Table":
    """Rows in the order of the table's columns as an Arrow table with the types of the record."""
    pyarrow = _pyarrow()
    names = columns(table)
    arrays = [
        pyarrow.array(values, type=_arrow_type(column_type(table, name)))
        for name, values in zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True)
    ]
    return pyarrow.table(arrays, names=names)


def _arrow_type(sql_type: str) -> "pyarrow.DataType":
    pyarrow = _pyarrow()
    return {
        "BIGINT": pyarrow.int64(),
        "INTEGER": pyarrow.int32(),
        "DOUBLE": pyarrow.float64(),
        "VARCHAR": pyarrow.string(),
        "JSON": pyarrow.string(),
        "TIMESTAMPTZ": pyarrow.timestamp("us", tz="UTC"),
    }[sql_type]


def _pyarrow() -> Any:
    import pyarrow  # here, not above: a process that only reads need not load it

    return pyarrow


def is_row_table(table: str) -> bool:
    return table in RUN_TABLES
