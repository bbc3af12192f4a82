"""Making a run here of rows from elsewhere: a folder that appears whole, with its rows as segments.

So whatever owns the record takes them in, exactly once, by the same road as the rows of a training; a crash in the
middle leaves a hidden folder that the next import removes.
"""

import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lab import paths
from lab.errors import DatabaseBusy, RunError, StoreError
from lab.files import write_json
from lab.rundir import RunDir
from lab.store.adopt import adopt
from lab.store.database import Database
from lab.store.reading import connect_readonly
from lab.store.rows import complete
from lab.store.segment_files import SegmentWriter, arrow_rows, list_segments
from lab.store.segments import ingest
from lab.store.tables import columns

if TYPE_CHECKING:
    import pyarrow

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_ABANDONED_S = 3_600.0


@dataclass(frozen=True)
class Imported:
    """A run that came in."""

    run_id: str
    path: Path
    rows: int
    is_recorded: bool
    """Whether the record has its rows already; False: its owner takes them in within a second."""
    notice: str = ""
    """What was left out, in a sentence."""


class NewRun:
    """A run's folder in the making, under a hidden name; use as a context manager."""

    def __init__(self, run_id: str):
        if not _RUN_ID.fullmatch(run_id):
            raise StoreError(f"{run_id!r} cannot be the id of a run: letters, digits, dots and dashes.")
        self.run_id = run_id
        self.target = paths.outputs() / run_id
        if self.target.exists() or _is_known(run_id):
            raise RunError(f"Run {run_id} is here already: purge it first, or import it under another id with --as.")
        _remove_abandoned()
        self.folder = paths.outputs() / f".import-{secrets.token_hex(4)}"
        self.rows = 0
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be made ({error.strerror}).") from error
        self._segments = SegmentWriter(self.folder / "segments")

    def write_info(self, info: Mapping[str, Any]) -> None:
        write_json(self.folder / "run.json", dict(info))

    def write_rows(self, table: str, rows: "pyarrow.Table") -> None:
        """Rows of one table, whatever run they belonged to; a column that an older lab did not have stays empty."""
        import pyarrow

        if rows.num_rows:
            given = {name: rows.column(name) for name in rows.column_names}
            given["run_id"] = pyarrow.array([self.run_id] * rows.num_rows, pyarrow.string())
            names = columns(table)
            rows = pyarrow.table([given.get(name, pyarrow.nulls(rows.num_rows)) for name in names], names=names)
            self._segments.write_table(table, rows)
            self.rows += rows.num_rows

    def copy(self, name: str, content: BinaryIO) -> None:
        """A file of the run's folder."""
        target = self.folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
        except OSError as error:
            raise StoreError(f"{target} could not be written ({error.strerror}): nothing was imported.") from error

    def __enter__(self) -> "NewRun":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # there only when something went wrong


def put_in_place(new: NewRun, notice: str = "") -> Imported:
    """Give the finished folder its name, and have its rows taken in."""
    try:
        new.folder.rename(new.target)
    except OSError as error:
        raise RunError(f"{new.target} cannot be made ({error.strerror}): is the run here already?") from error
    return Imported(new.run_id, new.target, new.rows, take_in(RunDir(new.target)), notice)


def take_in(run: RunDir) -> bool:
    """Have the record take in a folder that is complete. Returns whether it has; False: its owner will."""
    if owner := Database.owned_here(paths.database_path()):
        adopt(owner, run)
        ingest(owner, run)
        return True
    try:
        with Database.open(patience_s=0.0) as database:
            adopt(database, run)
            ingest(database, run)
    except DatabaseBusy:
        if not list_segments(run.segments):  # an owner takes in rows; a run without any shows itself by one change
            SegmentWriter(run.segments).write_run_changes(run.run_id, [{"name": run.info()["name"]}])
        return False
    return True


def rows_table(table: str, rows: list[dict[str, Any]]) -> "pyarrow.Table":
    """Rows as an Arrow table with all columns of the table; run_id is filled in later."""
    return arrow_rows(table, [complete(table, "", row) for row in rows])


def _is_known(run_id: str) -> bool:
    """Whether the record has rows of this run: one whose folder somebody removed by hand."""
    with connect_readonly() as record, record.cursor() as cursor:
        return cursor.execute("SELECT 1 FROM runs WHERE run_id = ?", [run_id]).fetchone() is not None


def _remove_abandoned() -> None:
    for folder in paths.outputs().glob(".import-*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED_S:  # a process died while it made it
            shutil.rmtree(folder, ignore_errors=True)
