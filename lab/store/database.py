"""The record's owner: the one process that has `runs.duckdb` open for writing.

There is no public connection to share by mistake: each thread or job takes its own `cursor()`.
"""

import atexit
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from lab import paths
from lab.errors import DatabaseBusy, StoreError
from lab.store import totals, views
from lab.store.backups import back_up
from lab.store.clock import clock_jump
from lab.store.cursor import Cursor, store_errors
from lab.store.migrations import migrate
from lab.store.opening import open_file, put_in_place, unreadable
from lab.store.rows import plain
from lab.store.tables import RUN_TABLES, SCHEMA, columns

_OPEN: dict[Path, "Database"] = {}  # DuckDB would quietly share one file between two owners of this process
_OPEN_LOCK = threading.RLock()
_ABANDONED_S = 60.0


class Database:
    """`runs.duckdb`, owned by this process until `close()`.

    `lock` serialises writing: two transactions that update the same row of `runs` would fail one of them.
    Nothing else in this process may open the file itself, not even to copy it: DuckDB guards it with a POSIX lock,
    and closing any descriptor of the file would give that up. Copies are made by `snapshot.make_snapshot`.
    `notices` holds a sentence for each thing that had to be mended on opening.
    """

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection, notices: list[str]):
        self.path = path
        self.notices = notices
        self.lock = threading.RLock()
        self._connection = connection
        self._cursors: weakref.WeakSet[Cursor] = weakref.WeakSet()
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        memory_limit: str = "1GB",
        threads: int = 2,
        patience_s: float = 3.0,
    ) -> "Database":
        """Open the record for writing; make it where there is none; bring its schema up to date.

        Args:
            memory_limit: what DuckDB may take; its own default is 80 % of the machine, which training needs.
            threads: cores it may use for one query.
            patience_s: how long to wait for a reader or another owner that is only passing through.

        Raises:
            DatabaseBusy: another process owns it.
            StoreError: it is damaged, foreign, newer than this lab, or its folder cannot be written.
        """
        path = (path or paths.database_path()).resolve()
        config = {
            "memory_limit": memory_limit,
            "threads": threads,
            "autoinstall_known_extensions": False,  # nothing is fetched from the network
            "allow_community_extensions": False,
        }
        with _OPEN_LOCK:
            if path in _OPEN:
                raise DatabaseBusy(f"{path} is already open in this process ({os.getpid()}): use that one.")
            try:
                there = path.exists()
            except OSError as error:
                raise unreadable(path, str(error)) from error
            if not there:
                _create(path, config)
            connection, notices = open_file(path, config, patience_s)
            database = cls(path, connection, notices)
            try:
                database._bring_up_to_date()
            except BaseException:
                database._close_connections()
                raise
            _OPEN[path] = database
        atexit.register(database.close)
        return database

    @staticmethod
    def owned_here(path: Path) -> "Database | None":
        """The owner of this path in this very process, if it is one."""
        return _OPEN.get(path.resolve())

    def cursor(self) -> Cursor:
        """A cursor for the calling thread. Cheap (microseconds): take one per job rather than keep one."""
        if self._closed:
            raise StoreError(f"{self.path} has been closed.")
        cursor = Cursor(self._connection.cursor())
        self._cursors.add(cursor)
        return cursor

    @contextmanager
    def writing(self) -> Iterator[Cursor]:
        """One transaction: everything done with the cursor is durable after the block, or none of it."""
        with self.lock, self.cursor() as cursor, cursor.transaction():
            yield cursor

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file. Called after a migration and at each run's end."""
        # While somebody else is in a transaction it may be refused; the log is just as durable, only longer.
        with self.lock, self.cursor() as cursor, suppress(duckdb.TransactionException):
            cursor.execute("CHECKPOINT")

    def close(self) -> None:
        """Give the file back. Idempotent; also called when the process exits."""
        with _OPEN_LOCK:
            if self._closed:
                return
            with self.lock:
                self._close_connections()
            if _OPEN.get(self.path) is self:
                del _OPEN[self.path]
        atexit.unregister(self.close)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing single rows -------------------------------------------------------------------------------------

    def add_run(self, row: dict[str, Any]) -> None:
        """Add a row to `runs`, or change the one with this run_id; config and versions may be dicts."""
        with self.writing() as cursor:
            put_run(cursor, row["run_id"], row)

    def update_run(self, run_id: str, **changes: Any) -> None:
        """Change some columns of a run."""
        with self.writing() as cursor:
            put_run(cursor, run_id, changes)

    def add_event(
        self, run_id: str | None, kind: str, message: str, *, level: str = "info", step: int | None = None
    ) -> None:
        """Say what happened; run_id None: it concerns the whole lab."""
        with self.writing() as cursor:
            put_event(cursor, run_id, kind, message, level=level, step=step)

    def add_prediction(
        self,
        run_id: str,
        metric: str,
        predicted: float,
        low: float | None = None,
        high: float | None = None,
        *,
        who: str = "person",
    ) -> None:
        """What somebody expects of a run before it starts; `who` is "person" or "forecast"."""
        row = [run_id, metric, predicted, low, high, datetime.now(UTC), None, who]
        with self.writing() as cursor:
            cursor.execute("INSERT INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def resolve_predictions(self, run_id: str, metric: str, actual: float) -> None:
        """Lay the outcome beside what was expected."""
        with self.writing() as cursor:
            cursor.execute(
                "UPDATE predictions SET actual = ? WHERE run_id = ? AND metric = ?", [actual, run_id, metric]
            )

    def delete_run(self, run_id: str) -> None:
        """Hide a run from lists. Its rows and files stay until it is purged."""
        self.update_run(run_id, deleted_at=datetime.now(UTC))

    def restore_run(self, run_id: str) -> None:
        self.update_run(run_id, deleted_at=None)

    def purge_run(self, run_id: str) -> None:
        """Delete every row of a run, for good. Remove its folder first: the next sweep reads in a folder it finds."""
        with self.writing() as cursor:
            for table in ("runs", "run_totals", *RUN_TABLES):
                cursor.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
            # Or a run that comes back from an archive would be taken for one whose segments are in already.
            cursor.execute("DELETE FROM segments_ingested WHERE starts_with(segment, ?)", [f"{run_id}/"])

    def delete_checkpoint(self, run_id: str, step: int, kind: str | None = None) -> None:
        """Forget a checkpoint whose file is gone."""
        with self.writing() as cursor:
            cursor.execute(
                "DELETE FROM checkpoints WHERE run_id = ? AND step = ? AND (? IS NULL OR kind = ?)",
                [run_id, step, kind, kind],
            )

    # -----------------------------------------------------------------------------------------------------------

    def _bring_up_to_date(self) -> None:
        for leftover in self.path.parent.glob(f".{self.path.name}.new-*"):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_S:  # a process died while it made the file
                leftover.unlink(missing_ok=True)
        changed = bool(self.notices)
        with store_errors():
            self._connection.execute("SET GLOBAL TimeZone = 'UTC'")
        with self.cursor() as cursor:
            changed |= migrate(cursor, str(self.path), before=lambda number: back_up(cursor, self.path, number)) > 0
            changed |= views.refresh(cursor)
        with self.writing() as cursor:
            changed |= totals.sum_up_ended(cursor) > 0
        for notice in self.notices:
            self.add_event(None, "warning", notice, level="warning")
        with self.cursor() as cursor:
            if jump := clock_jump(cursor):
                self.notices.append(jump)  # at each opening until it is over, so not an event each time
        if changed:
            self.checkpoint()

    def _close_connections(self) -> None:
        # The file stays locked until the last connection of the process is closed.
        self._closed = True
        for cursor in list(self._cursors):
            cursor.close()
        self._connection.close()


def put_run(cursor: Cursor, run_id: str, changes: dict[str, Any]) -> None:
    """Insert the run or change these columns of it. For use inside `Database.writing()`."""
    strangers = [name for name in changes if name not in SCHEMA["runs"]]
    if strangers:
        raise ValueError(f"Table runs has no column {', '.join(map(repr, strangers))}.")
    values = {name: plain(value) for name, value in changes.items() if name != "run_id"}
    if cursor.execute("SELECT 1 FROM runs WHERE run_id = ?", [run_id]).fetchone() is None:
        row = {**values, "run_id": run_id}
        marks = ", ".join("?" for _ in row)
        cursor.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    elif values:
        assignments = ", ".join(f"{name} = ?" for name in values)
        cursor.execute(f"UPDATE runs SET {assignments} WHERE run_id = ?", [*values.values(), run_id])
        if "status" in values:
            totals.refresh(cursor, run_id)


def put_event(
    cursor: Cursor, run_id: str | None, kind: str, message: str, *, level: str = "info", step: int | None = None
) -> None:
    """Add an event. For use inside `Database.writing()`."""
    row = (run_id, step, datetime.now(UTC), level, kind, message)
    cursor.append("events", columns("events"), [row])


def _create(path: Path, config: dict[str, Any]) -> None:
    """Make a new, empty record under another name and put it in place: a crash leaves no half-made file."""
    unfinished = path.with_name(f".{path.name}.new-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = duckdb.connect(str(unfinished), config=config)
        try:
            with Cursor(connection.cursor()) as cursor:
                migrate(cursor, str(path))
                views.refresh(cursor)
                cursor.execute("CHECKPOINT")
        finally:
            connection.close()
        put_in_place(unfinished, path)
    except (OSError, duckdb.Error) as error:
        with suppress(OSError):  # the folder may not even be one; the first error is the one to show
            unfinished.unlink(missing_ok=True)
            unfinished.with_name(unfinished.name + ".wal").unlink(missing_ok=True)
        raise unreadable(path, str(error)) from error
