"""Reading the record from anywhere: a script, a notebook, the command line, while the app is open or not."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from lab import paths
from lab.errors import DatabaseBusy, LabError, StoreError
from lab.store.cursor import Cursor
from lab.store.database import Database
from lab.store.opening import busy, is_busy, unreadable
from lab.store.snapshot import Request, make_snapshot, snapshot_path
from lab.store.sweep import sweep

if TYPE_CHECKING:
    import pandas

_PAUSE_S = 0.05


class ReadOnly:
    """The record, for reading. Use as a context manager: while it is open on the file itself, nobody can write.

    `as_of` is None when this is the record itself, else the moment that the copy shows.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, as_of: datetime | None):
        self.as_of = as_of
        self._connection = connection
        with suppress(duckdb.Error):
            connection.execute("SET GLOBAL TimeZone = 'UTC'")

    def cursor(self) -> Cursor:
        """A cursor for the calling thread."""
        return Cursor(self._connection.cursor())

    def query(self, sql: str, params: Sequence[Any] = ()) -> "pandas.DataFrame":
        """The answer as a DataFrame; `.attrs["as_of"]` says which moment it shows (None: now).

        Raises:
            StoreError: the SQL is wrong.
        """
        with self.cursor() as cursor:
            try:
                frame = cursor.execute(sql, params).df()
            except duckdb.Error as error:
                raise StoreError(f"The query does not work: {error}") from error
        frame.attrs["as_of"] = self.as_of.isoformat() if self.as_of else None
        return frame

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "ReadOnly":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect_readonly(path: Path | None = None, *, timeout_s: float = 10.0) -> ReadOnly:
    """Open the record for reading, whoever owns it.

    When nobody owns the file, pending segments are taken in first and statuses made true. When the app owns it,
    the app is asked for a copy.

    Raises:
        StoreError: it cannot be read, or its owner did not answer within `timeout_s`.
    """
    path = (path or paths.database_path()).resolve()
    deadline = time.monotonic() + timeout_s
    while True:
        file, as_of = readable_file(path, timeout_s=deadline - time.monotonic())
        try:
            return ReadOnly(_connect(file), as_of)
        except DatabaseBusy:  # the app was started in this very moment
            if time.monotonic() > deadline:
                raise


def query(sql: str, params: Sequence[Any] = (), *, path: Path | None = None) -> "pandas.DataFrame":
    """One question to the record: `query("SELECT name, val_loss FROM run_summary")`."""
    with connect_readonly(path) as record:
        return record.query(sql, params)


def readable_file(path: Path, *, timeout_s: float) -> tuple[Path, datetime | None]:
    """A file that can be opened read-only now: the record itself, or a copy made by its owner.

    Returns:
        The file, and the moment it shows (None: it is the record itself).
    """
    deadline = time.monotonic() + timeout_s
    request: Request | None = None
    try:
        while True:
            if owner := Database.owned_here(path):
                return snapshot_path(path), make_snapshot(owner)
            try:
                _settle(path)
                _connect(path).close()
                return path, None
            except DatabaseBusy as error:
                request = request or _ask(path, error)
                if as_of := request.answer():
                    return snapshot_path(path), as_of
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{error} It was asked for a copy to read from, but did not answer within {timeout_s:.0f} s."
                    ) from error
                time.sleep(_PAUSE_S)
    finally:
        if request:
            request.withdraw()


def _settle(path: Path) -> None:
    """As owner for a moment: take in what is pending, make statuses true."""
    try:
        with Database.open(path, patience_s=0.0) as database:
            if path == paths.database_path():  # the run folders of this LAB_HOME belong to this file
                sweep(database)
    except DatabaseBusy:
        return  # another reader is no obstacle, another owner is: trying to read tells them apart
    except StoreError:
        if not path.exists() or _writable(path):
            raise
        # A folder that cannot be written can still be read.


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _ask(path: Path, owner: DatabaseBusy) -> Request:
    try:
        return Request(path)
    except LabError as error:
        raise owner from error  # nowhere to put the request


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {"memory_limit": "1GB", "threads": 2, "autoinstall_known_extensions": False}
    try:
        return duckdb.connect(str(path), read_only=True, config=config)
    except duckdb.Error as error:
        text = str(error)
        if is_busy(text):
            raise busy(path, text) from error
        raise unreadable(path, text) from error
