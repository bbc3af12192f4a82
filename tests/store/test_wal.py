import random
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from lab.store import Database, events, wal
from lab.store.opening import TORN
from tests.store.conftest import recorded_steps

ROWS, FLUSHES = 50, 30

WRITER = f"""
import os, sys
from pathlib import Path
from lab.store import Database, DatabaseRecorder
database = Database.open(Path(sys.argv[1]))
recorder = DatabaseRecorder(database, "r")
for flush in range({FLUSHES}):
    first = flush * {ROWS}
    recorder.rows("metrics", [{{"step": s, "name": "a", "value": s / 2}} for s in range(first, first + {ROWS})])
    recorder.flush()
os._exit(9)  # dies without closing: everything since the migration is in the write-ahead log
"""


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a record whose owner died."""
    folder = tmp_path_factory.mktemp("died")
    assert subprocess.run([sys.executable, "-c", WRITER, str(folder / "runs.duckdb")]).returncode == 9
    return folder


@pytest.fixture
def copy(died: Path, tmp_path: Path) -> Path:
    shutil.copytree(died, tmp_path / "copy")
    return tmp_path / "copy" / "runs.duckdb"


def _flip(path: Path, position: int, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def _entries(content: bytes) -> list[int]:
    """Where each entry of the log begins: its length, its checksum, its content."""
    position, found = wal._first_entry(content), []
    assert position is not None
    while position < len(content):
        found.append(position)
        position += 16 + int.from_bytes(content[position : position + 8], "little")
    return found


def _whole_flushes(steps: list[int]) -> int:
    """How many flushes are there, after making sure that none is there in part."""
    assert steps == list(range(len(steps)))
    assert len(steps) % ROWS == 0
    return len(steps) // ROWS


def test_the_log_of_this_duckdb_is_laid_out_as_we_read_it(died: Path) -> None:
    # An upgrade of DuckDB that changes the layout fails here, and not on a person's damaged disk.
    content = (died / "runs.duckdb.wal").read_bytes()
    assert content.startswith(wal._HEADER)
    assert content.endswith(wal._COMMIT)
    assert len(_entries(content)) == content.count(wal._COMMIT) * len(_entries(content)) // FLUSHES
    assert not wal.silent_damage(died / "runs.duckdb.wal")


def test_a_log_in_order_is_replayed_without_a_word(copy: Path) -> None:
    with Database.open(copy) as database:
        assert database.notices == []
        assert _whole_flushes(recorded_steps(database, "r")) == FLUSHES


@pytest.mark.parametrize("seed", range(6))
def test_a_log_that_was_cut_off_opens_with_every_finished_flush_before_the_cut(copy: Path, seed: int) -> None:
    log = wal.wal_path(copy)
    content = log.read_bytes()
    length = random.Random(seed).randrange(100, len(content))
    finished = content[:length].count(wal._COMMIT)
    log.write_bytes(content[:length])
    at_an_end = length == len(content) or content[:length].endswith(wal._COMMIT)
    with Database.open(copy) as database:
        assert database.notices == ([] if at_an_end else [TORN])
        assert _whole_flushes(recorded_steps(database, "r")) == finished
    with Database.open(copy) as database:
        assert database.notices == [], "told once"


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_told_and_everything_before_it_is_kept(copy: Path, seed: int) -> None:
    log = wal.wal_path(copy)
    content = log.read_bytes()
    position = random.Random(seed).randrange(200, len(content))
    entry = max(start for start in _entries(content) if start <= position)
    finished = content[:entry].count(wal._COMMIT)
    _flip(log, position)
    damaged = log.read_bytes()
    with Database.open(copy) as database:
        (notice,) = database.notices
        assert "damaged" in notice
        assert _whole_flushes(recorded_steps(database, "r")) == finished
        (event,) = events(database, None).to_dict("records")
        assert event["message"] == notice
    (kept,) = copy.parent.glob("*.wal.damaged-*")
    assert kept.name in notice
    assert kept.read_bytes() == damaged
    with Database.open(copy) as again:
        assert again.notices == []


def test_a_flipped_length_is_told_too_although_duckdb_says_nothing(copy: Path) -> None:
    log = wal.wal_path(copy)
    middle = _entries(log.read_bytes())[len(_entries(log.read_bytes())) // 2]
    _flip(log, middle + 2)
    with duckdb.connect(str(shutil.copytree(copy.parent, copy.parent.parent / "plain") / "runs.duckdb")) as plain:
        rows = plain.sql("SELECT count(*) FROM metrics").fetchall()[0][0]
        assert rows < FLUSHES * ROWS, "DuckDB has learned to replay this: the check may go"
    with Database.open(copy) as database:
        assert "damaged" in database.notices[0]
        assert 0 < _whole_flushes(recorded_steps(database, "r")) < FLUSHES
    assert len(list(copy.parent.glob("*.wal.damaged-*"))) == 1


@pytest.mark.parametrize(("position", "bit"), [(0, 0), (0, 4), (5, 3), (9, 4), (9, 7)])
def test_a_damaged_beginning_costs_the_log_but_not_the_record(copy: Path, position: int, bit: int) -> None:
    _flip(wal.wal_path(copy), position, bit)
    with Database.open(copy) as database:
        assert "damaged" in database.notices[0]
        assert recorded_steps(database, "r") == []
        database.add_run({"run_id": "next"})
    with Database.open(copy) as again:
        assert again.notices == []


def test_a_log_is_not_put_aside_when_the_disk_is_full(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.errors import StoreError

    def fails(*_: object, **__: object) -> None:
        raise duckdb.IOException('Failure while replaying WAL file "x": No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(duckdb, "connect", fails)
        with pytest.raises(StoreError, match="disk is full"):
            Database.open(copy)
    with Database.open(copy) as database:
        assert _whole_flushes(recorded_steps(database, "r")) == FLUSHES
