"""One thread's way to read and write the record.

Two threads on one DuckDB connection silently get each other's answers (measured: 189 of 300 reads were wrong).
So the database hands out a cursor to whoever asks, and a cursor refuses any thread but its own.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb

from lab.errors import StoreError
from lab.store.answers import friendly

if TYPE_CHECKING:
    import pandas
    import pyarrow


class Cursor:
    """Runs SQL; every answer is fetched whole at once.

    DuckDB would stream: a result that is not read to its end keeps the connection busy, and the next write on it
    fails. A whole answer leaves nothing open.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self._connection = connection
        self._thread = threading.get_ident()
        self._answer: pyarrow.Table | None = None
        self._next_row = 0

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "Cursor":
        """Run one statement; `?` stands for a parameter. Follow with fetchall, fetchone, df or arrow."""
        self._check_thread()
        self._answer, self._next_row = None, 0
        with store_errors():
            relation = self._connection.sql(sql, params=list(parameters) or None)
            if relation is not None:
                self._answer = friendly(relation.to_arrow_table())
        return self

    def append(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add rows quickly: one statement for all of them."""
        self._check_thread()
        with store_errors():
            appender = self._connection.appender(table, columns=list(columns))
            try:
                appender.append_rows(rows)
                appender.flush()
            except duckdb.Error:
                appender.clear()  # a failed flush keeps its rows and would try them again
                raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self.execute("BEGIN TRANSACTION")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def fetchall(self) -> list[tuple[Any, ...]]:
        table = self.arrow()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))[self._next_row :]

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or None after the last."""
        table, row = self.arrow(), self._next_row
        if row >= table.num_rows:
            return None
        self._next_row += 1
        return tuple(column[row].as_py() for column in table.columns)

    def df(self) -> "pandas.DataFrame":
        return self.arrow().to_pandas()

    def arrow(self) -> "pyarrow.Table":
        if self._answer is None:
            raise RuntimeError("execute() comes first.")
        return self._answer

    def dicts(self) -> list[dict[str, Any]]:
        """One dict per row."""
        return self.arrow().to_pylist()

    def close(self) -> None:
        self._answer = None
        self._connection.close()

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _roll_back(self) -> None:
        # A commit that failed has already rolled back; the first error is the one to show.
        with suppress(duckdb.Error):
            self._connection.execute("ROLLBACK")

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("A cursor belongs to the thread that took it: call Database.cursor() in this one.")


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what can go wrong with the file, not with the SQL, into one sentence."""
    try:
        yield
    except duckdb.Error as error:
        text = str(error)
        if "No space left on device" in text or "out of disk space" in text.lower():
            raise StoreError(
                "The record could not be written: the disk is full. Free some space; what was recorded before is safe."
            ) from error
        if isinstance(error, duckdb.FatalException) or "database has been invalidated" in text:
            raise StoreError(
                "The record had to be closed after an error while writing "
                f"({text.splitlines()[0]}): restart the lab; what was recorded before is safe."
            ) from error
        if isinstance(error, duckdb.IOException):
            raise StoreError(f"The record could not be read or written: {text.splitlines()[0]}") from error
        raise
