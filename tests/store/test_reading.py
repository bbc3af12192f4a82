import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from lab.errors import StoreError
from lab.rundir import RunDir
from lab.store import (
    Database,
    SegmentRecorder,
    connect_readonly,
    list_runs,
    query,
    run_row,
    serve_snapshots,
    snapshot,
)
from lab.store.snapshot import make_snapshot, snapshot_folder, snapshot_path
from tests.store.conftest import losses

OWNER = """
import sys, time
from lab.store import Database, DatabaseRecorder, serve_snapshots
database = Database.open()
database.add_run({"run_id": "r", "status": "running"})
recorder = DatabaseRecorder(database, "r")
print("open", flush=True)
step = 0
while True:
    recorder.rows("metrics", [{"step": step, "name": "a", "value": 1.0}])
    recorder.flush()
    step += 1
    if "serve" in sys.argv:
        serve_snapshots(database)
    time.sleep(0.01)
"""


@contextmanager
def owner(*arguments: str) -> Iterator[subprocess.Popen]:
    """Another process that owns the record and writes into it."""
    with subprocess.Popen([sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_free_record_is_read_as_it_is_now_with_pending_segments(run_dir: RunDir) -> None:
    recorder = SegmentRecorder(run_dir)
    recorder.rows("metrics", losses(range(5)))
    recorder.rows("runs", [{"status": "running"}])
    recorder.close()
    with connect_readonly() as record:
        assert record.as_of is None
        assert record.query("SELECT count(*) AS n FROM metrics")["n"][0] == 5
        assert run_row(record, run_dir.run_id)["status"] == "interrupted"


def test_reading_works_where_nothing_was_ever_recorded(lab_home: Path) -> None:
    with connect_readonly() as record:
        assert list_runs(record).empty


def test_it_cannot_be_written_through(lab_home: Path) -> None:
    with connect_readonly() as record, pytest.raises(StoreError, match="read-only"):
        record.query("DELETE FROM runs")


def test_wrong_sql_is_a_sentence(lab_home: Path) -> None:
    with pytest.raises(StoreError, match="does not work"):
        query("SELECT nonsense FROM runs")


def test_parameters_are_passed(lab_home: Path) -> None:
    assert query("SELECT ? AS name", ["it's"])["name"][0] == "it's"


def test_while_another_process_owns_it_its_copy_is_read_with_the_moment_it_shows(lab_home: Path) -> None:
    with owner("serve"):
        time.sleep(0.2)
        before = datetime.now(UTC)
        with connect_readonly() as record:
            assert record.as_of is not None
            assert before - timedelta(seconds=1) <= record.as_of <= datetime.now(UTC)
            assert list(list_runs(record)["run_id"]) == ["r"]
            first = record.query("SELECT max(step) AS s FROM metrics")
        time.sleep(0.2)
        second = query("SELECT max(step) AS s FROM metrics")
        assert second["s"][0] > first["s"][0]
        assert second.attrs["as_of"] > first.attrs["as_of"]
    assert sorted(path.name for path in snapshot_folder(lab_home / "runs.duckdb").iterdir()) == ["runs.duckdb"]


def test_an_owner_that_does_not_answer_is_named(lab_home: Path) -> None:
    with owner() as process, pytest.raises(StoreError, match=rf"in use by process {process.pid}.*did not answer"):
        connect_readonly(timeout_s=0.5)
    assert list(snapshot_folder(lab_home / "runs.duckdb").iterdir()) == []


def test_when_the_owner_dies_while_a_reader_waits_the_file_itself_is_read(lab_home: Path) -> None:
    with owner() as process:
        timer = threading.Timer(0.5, process.kill)
        timer.start()
        with connect_readonly(timeout_s=10) as record:
            assert record.as_of is None
            assert list(list_runs(record)["run_id"]) == ["r"]
        timer.join()


def test_several_readers_share_one_copy(database: Database) -> None:
    folder = snapshot_folder(database.path)
    folder.mkdir(parents=True)
    for name in "abc":
        (folder / f"request-{name}").touch()
    assert serve_snapshots(database) == 3
    assert len(list(folder.glob("answer-*.json"))) == 3
    assert serve_snapshots(database) == 0


def test_readers_do_not_disturb_each_other(lab_home: Path) -> None:
    with connect_readonly() as first, connect_readonly() as second:
        assert first.as_of is None
        assert second.as_of is None


def test_in_the_owners_own_process_a_copy_is_read(database: Database) -> None:
    database.add_run({"run_id": "r"})
    frame = query("SELECT run_id FROM runs")
    assert list(frame["run_id"]) == ["r"]
    assert frame.attrs["as_of"] is not None


def test_a_reader_is_told_when_no_copy_can_be_made(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Database) -> None:
        raise StoreError("the disk is full")

    folder = snapshot_folder(database.path)
    folder.mkdir(parents=True)
    (folder / "request-a").touch()
    monkeypatch.setattr("lab.store.snapshot.make_snapshot", full)
    serve_snapshots(database)
    assert "the disk is full" in (folder / "answer-a.json").read_text()


def test_a_record_on_a_read_only_disk_can_be_read(read_only_disk: Path) -> None:
    with connect_readonly(read_only_disk / "runs.duckdb") as record:
        assert record.query("SELECT count(*) AS n FROM metric_info")["n"][0] > 0


def test_a_foreign_file_is_refused_in_one_sentence(lab_home: Path) -> None:
    with duckdb.connect(str(lab_home / "runs.duckdb")) as connection:
        connection.execute("CREATE TABLE invoices (amount DOUBLE)")
    with pytest.raises(StoreError, match="not the lab's record"):
        connect_readonly()


def test_a_copy_is_made_again_only_after_something_was_written(database: Database) -> None:
    database.add_run({"run_id": "r"})
    make_snapshot(database)
    first = snapshot_path(database.path).stat().st_ino
    make_snapshot(database)
    assert snapshot_path(database.path).stat().st_ino == first
    database.update_run("r", note="x")
    make_snapshot(database)
    with duckdb.connect(str(snapshot_path(database.path)), read_only=True) as copy:
        assert copy.sql("SELECT note FROM runs").fetchall() == [("x",)]


def test_a_dear_copy_is_used_for_a_while_and_says_which_moment_it_shows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_DEAR_S", 0.0)
    monkeypatch.setattr(snapshot, "_WORTH", 1e6)
    first = make_snapshot(database)
    database.add_run({"run_id": "r"})
    assert make_snapshot(database) == first
    monkeypatch.setattr(snapshot, "_WORTH", 0.0)
    assert make_snapshot(database) > first
