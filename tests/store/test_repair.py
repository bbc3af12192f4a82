"""`lab doctor --repair`: what is damaged is named and kept, what can be read is kept in use."""

import json
import os
import random
import time
from pathlib import Path

import duckdb
import pytest

from lab.cli import main
from lab.errors import DatabaseBusy, StoreError
from lab.rundir import RunDir
from lab.store import Database, DatabaseRecorder, SegmentRecorder, adopt, latest, list_runs, run_row
from lab.store.backups import backup_folder
from lab.store.repair import examine, repair
from tests.store.conftest import losses, recorded_steps


@pytest.fixture
def record(lab_home: Path, run_dir: RunDir) -> Path:
    """A closed record of one finished run."""
    with Database.open() as database:
        adopt(database, run_dir)
        recorder = DatabaseRecorder(database, run_dir.run_id)
        recorder.rows("metrics", losses(range(5_000)))
        recorder.rows("runs", [{"status": "finished"}])
        recorder.close()
        run_dir.update_info(status="finished")
    return lab_home / "runs.duckdb"


def test_a_record_in_order_needs_nothing(record: Path) -> None:
    before = record.read_bytes()
    assert repair() == []
    with Database.open() as database:
        assert examine(database) == []
    assert len(record.read_bytes()) == len(before)


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
def test_a_file_that_is_no_record_is_kept_aside_and_the_folders_are_read_in(
    record: Path, run_dir: RunDir, content: bytes
) -> None:
    record.write_bytes(content)
    (finding,) = [one for one in repair() if "kept as" in one.sentence]
    (aside,) = record.parent.glob("runs.duckdb.damaged-*")
    assert aside.name in finding.sentence
    assert aside.read_bytes() == content
    with Database.open() as database:
        assert run_row(database, run_dir.run_id)["name"] == "a run"


def test_the_newest_backup_takes_the_place_of_a_file_that_cannot_be_read(record: Path, run_dir: RunDir) -> None:
    backup_folder(record).mkdir()
    (backup_folder(record) / "schema1-20261101-000000.duckdb").write_bytes(record.read_bytes())
    record.write_bytes(b"")
    findings = repair()
    assert any("the backup of" in one.sentence for one in findings)
    with Database.open() as database:
        assert recorded_steps(database, run_dir.run_id) == list(range(5_000))


def test_what_can_be_read_of_a_file_with_a_damaged_block_is_read(record: Path, run_dir: RunDir) -> None:
    content = bytearray(record.read_bytes())
    luck = random.Random(3)
    for position in range(12_288, len(content), 4_096):  # behind the headers, some of it in each block
        if luck.random() < 0.3:
            content[position] ^= 0x40
    record.write_bytes(content)
    with pytest.raises(StoreError):
        Database.open()
    repair()
    with Database.open() as database:
        assert list(list_runs(database)["run_id"]) == [run_dir.run_id]
        assert examine(database) == []


def test_a_newer_record_is_not_replaced(record: Path) -> None:
    with duckdb.connect(str(record)) as connection:
        connection.execute("INSERT INTO schema_migrations SELECT 90 + range, 'x', now() FROM range(9)")
    with pytest.raises(StoreError, match="newer lab"):
        repair()
    assert not list(record.parent.glob("*.damaged-*"))


def test_an_open_record_is_left_alone(database: Database) -> None:
    with pytest.raises(DatabaseBusy):
        repair()


def test_rows_without_a_run_are_listed_again(record: Path) -> None:
    with duckdb.connect(str(record)) as connection:
        connection.execute("INSERT INTO metrics SELECT 'lost', range, 0, 0, 'val/loss', 2.0 FROM range(7)")
    with Database.open() as database:
        (finding,) = examine(database)
        assert not finding.is_mended
    assert any("7 rows of run lost" in one.sentence and one.is_mended for one in repair())
    with Database.open() as database:
        assert run_row(database, "lost")["status"] == "interrupted"
        assert latest(database, "lost")["val/loss"] == (2.0, 6)
        assert examine(database) == []


def test_totals_that_do_not_agree_with_the_rows_are_made_anew(record: Path, run_dir: RunDir) -> None:
    with duckdb.connect(str(record)) as connection:
        connection.execute("UPDATE run_totals SET last_value = -1")
    assert any("totals of 1 runs were made anew" in one.sentence for one in repair())
    with Database.open() as database:
        assert latest(database, run_dir.run_id)["train/loss"] == (4_999 / 2, 4_999)


def test_a_checkpoint_whose_file_is_gone_is_taken_off_the_list(record: Path, run_dir: RunDir) -> None:
    with Database.open() as database:
        recorder = DatabaseRecorder(database, run_dir.run_id)
        recorder.rows("checkpoints", [{"step": 10, "path": "checkpoints/gone.safetensors", "kind": "kept"}])
        recorder.close()
    assert any("checkpoint 10" in one.sentence for one in repair())
    assert repair() == []


def test_a_clock_that_was_put_back_is_told_and_harms_nothing(record: Path, run_dir: RunDir) -> None:
    with Database.open() as database:
        database.update_run(run_dir.run_id, created_at="2099-01-01 00:00:00+00")
    with Database.open() as database:
        assert any("clock was put back" in notice for notice in database.notices)
        recorder = SegmentRecorder(run_dir)
        recorder.rows("metrics", losses(range(5_000, 5_010)))
        recorder.close()
        from lab.store import ingest_all

        os.utime(run_dir.segments, (time.time() + 86_400,) * 2)
        assert ingest_all(database) == 10
        assert ingest_all(database) == 0
    assert not any(one.is_mended for one in repair())


def test_what_a_killed_process_left_half_written_is_removed_after_an_hour(record: Path, run_dir: RunDir) -> None:
    old, new = run_dir.path / ".run.json.abc.tmp", run_dir.path / ".run.json.def.tmp"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 7_200,) * 2)
    assert any("half-written were removed" in one.sentence for one in repair())
    assert (old.exists(), new.exists()) == (False, True)


def test_the_command_says_what_it_mended(record: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from lab.cli import checks

    monkeypatch.setattr(checks, "ALL", (checks.database,))
    record.write_bytes(b"")
    assert main(["doctor", "--json"]) == 1
    assert "lab doctor --repair" in capsys.readouterr().out
    assert main(["doctor", "--repair", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert any("is empty" in one["sentence"] for one in document["repaired"])
    assert document["ok"]
