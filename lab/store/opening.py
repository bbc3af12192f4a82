"""Opening the database file: made whole or not at all, owned by one process, mended after damage."""

import os
import re
import time
from pathlib import Path
from typing import Any

import duckdb

from lab.errors import DatabaseBusy, StoreError
from lab.store import wal

TORN = (
    "The write-ahead log of the record stops in the middle of a commit: what was being recorded when the lab or the "
    "computer went down is lost, everything before it was kept."
)
_PAUSE_S = 0.05  # between two tries while somebody else has the file for a moment


def open_file(path: Path, config: dict[str, Any], patience_s: float) -> tuple[duckdb.DuckDBPyConnection, list[str]]:
    """Open an existing database for writing.

    Returns:
        The connection, and a sentence for each thing that had to be mended.

    Raises:
        DatabaseBusy: another process has it, longer than `patience_s`.
        StoreError: it is not a database, is damaged, or cannot be written.
    """
    notices: list[str] = []
    log = wal.wal_path(path)
    if wal.silent_damage(log):
        kept = wal.keep_copy(log)
        notices.append(_lost(kept, "what was recorded after the damaged place is lost"))
    elif wal.is_torn(log):
        notices.append(TORN)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return duckdb.connect(str(path), config=config), notices
        except duckdb.Error as error:
            text = str(error)
            if is_busy(text):
                if time.monotonic() > deadline:
                    raise busy(path, text) from error
                time.sleep(_PAUSE_S)
            elif "replaying WAL" in text and log.exists() and not _machine_is_short(text):
                notices = [_mend(path, log, text)]  # says more than that the log is torn
            else:
                raise unreadable(path, text) from error


def _mend(path: Path, log: Path, error: str) -> str:
    """Put the damaged log aside and leave as much of it as can be replayed."""
    kept = wal.keep_copy(log)
    position = wal.damaged_at(error)
    if position:
        wal.cut(log, position)
        return _lost(kept, "everything before the damaged place was kept, what was recorded after it is lost")
    log.unlink()
    return _lost(kept, "what was recorded since the last checkpoint is lost")


def _lost(kept: Path, what: str) -> str:
    return f"The write-ahead log of the record was damaged: {what}. The damaged log is kept as {kept.name}."


def _machine_is_short(text: str) -> bool:
    """The log may be fine: it is memory, disk or rights that are lacking."""
    return any(
        sign in text for sign in ("No space left", "Out of Memory", "Permission denied", "Read-only file system")
    )


def is_busy(text: str) -> bool:
    """Whether the error says that somebody else has the file: another process, or a reader in this one."""
    return "Could not set lock" in text or "different configuration than existing connections" in text


def busy(path: Path, text: str) -> DatabaseBusy:
    found = re.search(r"\(PID (\d+)\)", text)
    who = f"process {found.group(1)}" if found else f"a reader in this process ({os.getpid()})"
    return DatabaseBusy(f"{path} is in use by {who}: close the lab there, or work with it through the open app.")


def unreadable(path: Path, text: str) -> StoreError:
    """One sentence for a file that cannot be opened."""
    first = text.splitlines()[0]
    if path.is_file() and path.stat().st_size == 0:
        return StoreError(f"{path} is empty, so it is not the lab's record: move it away and start again.")
    if "not a valid DuckDB database file" in text:
        return StoreError(f"{path} is not a DuckDB database: move it away, or set LAB_HOME to another folder.")
    if any(
        sign in text
        for sign in ("Permission denied", "Read-only file system", "Not a directory", "Is a directory", "File exists")
    ):
        return StoreError(f"{path} cannot be written ({first}): set LAB_HOME to a folder that can.")
    if "No space left" in text:
        return StoreError(f"{path} cannot be opened: the disk is full. Free some space and start again.")
    return StoreError(
        f"{path} cannot be opened ({first}): it may be damaged; move it away to start a new record. "
        "The runs' own folders under outputs/ are kept and will be read in again."
    )


def put_in_place(finished: Path, path: Path) -> None:
    """Give a finished new database its name, unless another process was faster.

    A hard link refuses to replace what is there, so two processes that start at once end up with one file.
    """
    try:
        os.link(finished, path)
    except FileExistsError:
        pass
    finally:
        finished.unlink(missing_ok=True)
