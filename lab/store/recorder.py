"""Recording from a training loop without slowing it.

Rows are buffered in Python and written together, in the caller's thread: twice a second into the database, once
a second into segments. After `flush()` has returned, every row given before is on the disk and survives a kill.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lab.rundir import RunDir
from lab.store import totals
from lab.store.cursor import Cursor
from lab.store.database import Database, put_run
from lab.store.rows import check, complete
from lab.store.segment_files import SegmentWriter
from lab.store.tables import EVENTS_OF_A_STEP, LIVE, RUN_TABLES, columns


class Recorder(Protocol):
    """What a trainer knows of the record."""

    def rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record rows of this run: keys are columns, run_id is added.

        `metrics`, `samples`, `events`, `checkpoints` and `predictions` are appended to; rows for `runs` change
        those columns of this run.
        """

    def flush(self) -> None:
        """Make everything recorded so far durable."""

    def rollback(self, after_step: int) -> None:
        """Delete this run's rows beyond a step, because training goes on from there."""

    def close(self) -> None:
        """Flush, and stop recording."""


class _Buffered:
    """Collects rows and hands them over together, not more often than each `interval_s` unless asked to."""

    interval_s: float

    def __init__(self) -> None:
        self._buffer: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._flushed_at = time.monotonic()

    def rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        check(table, rows)
        self._buffer[table].extend(dict(row) for row in rows)
        if time.monotonic() - self._flushed_at >= self.interval_s:
            self.flush()

    def flush(self) -> None:
        # Taken out first: should writing fail, the error tells, and the next flush does not stumble over the same rows.
        taken, self._buffer = self._buffer, defaultdict(list)
        self._flushed_at = time.monotonic()
        if any(taken.values()):
            self._write(taken)

    def close(self) -> None:
        self.flush()

    def _write(self, taken: Mapping[str, list[dict[str, Any]]]) -> None:
        raise NotImplementedError


class DatabaseRecorder(_Buffered):
    """Records one run into the database that this process owns."""

    interval_s = 0.5  # at most half a second of rows can be lost to a kill; a flush takes about 2 ms

    def __init__(self, database: Database, run_id: str):
        super().__init__()
        self._database = database
        self._run_id = run_id
        self._is_live = False  # not known yet; while it is, no totals are kept that new rows could make untrue

    def rollback(self, after_step: int) -> None:
        self.flush()
        with self._database.writing() as cursor:
            delete_beyond(cursor, self._run_id, after_step)
            self._is_live = totals.refresh(cursor, self._run_id)

    def close(self) -> None:
        self.flush()
        self._database.checkpoint()

    def _write(self, taken: Mapping[str, list[dict[str, Any]]]) -> None:
        with self._database.writing() as cursor:
            for table in RUN_TABLES:
                if taken.get(table):
                    rows = [complete(table, self._run_id, row) for row in taken[table]]
                    cursor.append(table, columns(table), rows)
            for row in taken.get("runs", ()):
                put_run(cursor, self._run_id, row)
                if "status" in row:
                    self._is_live = row["status"] in LIVE
            if taken.get("metrics") and not self._is_live:
                self._is_live = totals.refresh(cursor, self._run_id)


class SegmentRecorder(_Buffered):
    """Records one run into files in its folder, for whoever owns the database to take in (`segments.ingest`)."""

    interval_s = 1.0  # each flush is a few small files with an fsync each

    def __init__(self, run_dir: RunDir):
        super().__init__()
        self._run_id = run_dir.run_id
        self._writer = SegmentWriter(run_dir.segments)

    def rollback(self, after_step: int) -> None:
        self.flush()
        self._writer.write_rollback(self._run_id, after_step)

    def _write(self, taken: Mapping[str, list[dict[str, Any]]]) -> None:
        for table in RUN_TABLES:
            if taken.get(table):
                self._writer.write_rows(table, [complete(table, self._run_id, row) for row in taken[table]])
        if taken.get("runs"):
            # Last: a run must not be "finished" before its last rows are there.
            self._writer.write_run_changes(self._run_id, taken["runs"])


def delete_beyond(cursor: Cursor, run_id: str, after_step: int) -> None:
    """Delete the rows of steps that will be done again. For use inside `Database.writing()`."""
    for table in ("metrics", "samples", "checkpoints", "head_stats", "layer_stats"):
        cursor.execute(f"DELETE FROM {table} WHERE run_id = ? AND step > ?", [run_id, after_step])
    marks = ", ".join("?" for _ in EVENTS_OF_A_STEP)
    cursor.execute(
        f"DELETE FROM events WHERE run_id = ? AND step > ? AND kind IN ({marks})",
        [run_id, after_step, *EVENTS_OF_A_STEP],
    )
