"""The write-ahead log beside the database, after a crash or a damaged disk.

DuckDB appends each commit to `runs.duckdb.wal` and folds it into the file at a checkpoint. On opening it replays
the log. Three things can be wrong with it:

- its end is cut off: the commit that was being written when the process died. Nobody was told that it was done, and
  DuckDB leaves it out. A disk that lost the end of a file looks the same, so we tell;
- a byte flipped inside an entry: DuckDB refuses to open the database at all, naming the entry;
- a byte flipped in an entry's length: DuckDB takes it for a cut-off end, and everything after it is gone
  without a word. So we look ourselves.

A damaged log is never thrown away: it is kept beside the database, and what stands before the damage is replayed.
"""

import re
import shutil
import struct
from datetime import datetime
from pathlib import Path

from lab.files import write_bytes

_HEADER = bytes.fromhex("640062650002660010")  # entry "version", version 2, then 16 numbers: the database's identity
_CHECKPOINT = bytes.fromhex("6700")  # the header's next field: how many checkpoints there were
_COMMIT = struct.pack("<QQ", 5, 0x5E3DED2F727DFEE7) + bytes.fromhex("640064ffff")  # length, checksum, entry "flush"


def wal_path(database: Path) -> Path:
    return database.with_name(database.name + ".wal")


def silent_damage(wal: Path) -> bool:
    """Whether DuckDB would leave out finished commits of this log without saying so."""
    if not wal.exists() or wal.stat().st_size == 0:
        return False
    content = wal.read_bytes()
    start = _first_entry(content)
    if start is None:
        return len(content) > 64  # shorter: cut off inside the header, so before the first commit
    position = start
    while position + 16 <= len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        if position + 16 + length > len(content):
            break
        position += 16 + length
    # Lengths that lead exactly to the end are right. If they lead past it, the end tells a cut-off log (it stops in
    # the middle of a commit) from a damaged one (its last commit is whole, but cannot be reached).
    return position != len(content) and content.endswith(_COMMIT)


def is_torn(wal: Path) -> bool:
    """Whether the log stops in the middle of a commit."""
    if not wal.exists() or wal.stat().st_size == 0:
        return False
    content = wal.read_bytes()
    return _first_entry(content) != len(content) and not content.endswith(_COMMIT)


def _first_entry(content: bytes) -> int | None:
    """Where the entries begin, after the header. None: this is not a header in order."""
    if not content.startswith(_HEADER):
        return None
    position = len(_HEADER)
    for _ in range(16):
        position = _after_number(content, position)
    if content[position : position + 2] != _CHECKPOINT:
        return None
    position = _after_number(content, position + 2)
    return position + 2 if content[position : position + 2] == b"\xff\xff" else None


def _after_number(content: bytes, position: int) -> int:
    """Where a number ends that takes seven bits of each byte; the eighth says that another byte follows."""
    while position < len(content) and content[position] & 0x80:
        position += 1
    return position + 1


def damaged_at(error: str) -> int | None:
    """The byte at which DuckDB says the log is damaged."""
    found = re.search(r"entry at byte position (\d+)", error)
    return int(found.group(1)) if found else None


def keep_copy(wal: Path) -> Path:
    """Copy the log to a name that says when it was found damaged."""
    copy = _free_name(wal)
    shutil.copyfile(wal, copy)
    return copy


def cut(wal: Path, position: int) -> None:
    """Keep only what stands before `position` (bytes)."""
    write_bytes(wal, wal.read_bytes()[:position])


def _free_name(wal: Path) -> Path:
    name = f"{wal.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1000):
        candidate = wal.with_name(name + (f"-{number}" if number else ""))
        if not candidate.exists():
            return candidate
    raise AssertionError("a thousand damaged logs in one second")
