"""SQL that somebody typed, contained: a child process on a read-only file, with bounds on memory, time and rows."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab import paths
from lab.cores import BusyCores, cores, make_way
from lab.errors import StoreError
from lab.store import sql_child
from lab.store.answers import friendly, table_as_text, write_table
from lab.store.reading import readable_file

if TYPE_CHECKING:
    import pandas
    import pyarrow

Format = Literal["table", "csv", "json", "parquet"]
_TURN_S = 0.05
_QUICK_S = 1.5
"""A query that is answered by then, as most are, does not rest."""
_REST = 6
"""Where others use the cores, a query that takes longer computes for one turn and rests for this many: a training
shares caches and memory with it, so that even in the system's idle class a query took a tenth of its pace."""


@dataclass(frozen=True)
class SqlAnswer:
    """Rows, and what a person should know about them."""

    table: "pyarrow.Table"
    notice: str
    """Why these are not all rows; empty when they are."""
    as_of: datetime | None
    """The moment the answer shows, if it came from a copy; None: now."""
    seconds: float

    def frame(self) -> "pandas.DataFrame":
        return self.table.to_pandas()

    def text(self, format: Format = "table") -> str:
        """The rows as an aligned table, CSV, or a JSON list of objects."""
        return table_as_text(self.table, format)

    def write(self, path: Path, format: Format) -> None:
        """Write the rows to a file, whole or not at all."""
        write_table(self.table, path, format)


def run_sql(
    sql: str,
    *,
    limit: int = 1_000,
    timeout_s: float = 30.0,
    path: Path | None = None,
    stop: Callable[[], bool] | None = None,
) -> SqlAnswer:
    """Answer one question about the record. Nothing in `sql` can change it, read other files or outlive the bounds.

    Args:
        limit: rows to return at most; an answer that has more says so in `notice`.
        timeout_s: seconds of computing until the query is given up; beside a training it rests most of the time.
        stop: looked at three times a second; True gives the query up.

    Raises:
        StoreError: it is not one reading statement, does not work, or hit a bound.
    """
    if limit < 1:
        raise StoreError(f"The limit is {limit} rows, but must be at least 1.")
    started = time.monotonic()
    file, as_of = readable_file((path or paths.database_path()).resolve(), timeout_s=10.0)
    question = {"path": str(file), "sql": sql, "limit": limit, "timeout_s": timeout_s}
    table, more = _read(_ask_child(question, timeout_s, stop))
    notice = ""
    if more:
        notice = f"Only the first {table.num_rows:,} rows are shown: there are more. Raise the limit or ask for less."
    return SqlAnswer(friendly(table), notice, as_of, time.monotonic() - started)


def _ask_child(question: dict[str, Any], timeout_s: float, stop: Callable[[], bool] | None) -> bytes:
    # -P: the folder of the script is no place to import from. The script imports nothing of the lab: 0.1 s less.
    command = [sys.executable, "-P", "-W", "ignore", str(Path(sql_child.__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        make_way(child.pid)
        given: bytes | None = json.dumps(question).encode()
        started, rested, busy = time.monotonic(), 0.0, BusyCores()
        while True:
            try:
                output, _ = child.communicate(given, timeout=_TURN_S)
                break
            except subprocess.TimeoutExpired:
                given = None
            computed = time.monotonic() - started - rested
            is_late = computed > timeout_s
            if is_late or (stop is not None and stop()):
                child.kill()
                child.communicate()
                why = f"after {timeout_s:g} s: ask for less" if is_late else "on request"
                raise StoreError(f"The query was stopped {why}.")
            if busy.look() > cores() - 0.75 and computed > _QUICK_S:
                rested += _rest(child)
    if not output:
        raise StoreError(f"The query took more memory than it may have (exit {child.returncode}): ask for less.")
    return output


def _rest(child: "subprocess.Popen[bytes]") -> float:
    """Let it stand still for a while. Returns the seconds that it stood."""
    started = time.monotonic()
    child.send_signal(signal.SIGSTOP)
    time.sleep(_REST * _TURN_S)
    child.send_signal(signal.SIGCONT)
    return time.monotonic() - started


def _read(output: bytes) -> tuple["pyarrow.Table", bool]:
    """The child's answer: rows, and whether there are more."""
    import pyarrow.ipc

    if output[:1] == b"E":
        raise StoreError(output[1:].decode(errors="replace"))
    try:
        with pyarrow.ipc.open_stream(output[1:]) as reader:
            table = reader.read_all()
    except pyarrow.ArrowInvalid as error:
        raise StoreError("The query took more memory than it may have: its answer broke off. Ask for less.") from error
    return table, (table.schema.metadata or {}).get(b"more") == b"yes"
