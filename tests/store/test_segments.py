import math
import os
import shutil
from pathlib import Path

import pytest

from lab.errors import StoreError
from lab.rundir import RunDir
from lab.store import Database, SegmentRecorder, events, ingest, ingest_all, predictions, run_row
from lab.store.cursor import Cursor
from lab.store.segment_files import SegmentWriter, list_segments
from tests.store.conftest import losses, recorded_steps


def _write(run_dir: RunDir, *batches: range) -> SegmentRecorder:
    recorder = SegmentRecorder(run_dir)
    for batch in batches:
        recorder.rows("metrics", losses(batch))
        recorder.flush()
    return recorder


def test_segments_are_taken_in_once_and_deleted(database: Database, run_dir: RunDir) -> None:
    _write(run_dir, range(5), range(5, 9))
    assert ingest(database, run_dir) == 9
    assert list_segments(run_dir.segments) == []
    assert ingest(database, run_dir) == 0
    assert recorded_steps(database, run_dir.run_id) == list(range(9))


def test_a_crash_between_commit_and_delete_does_not_take_a_segment_twice(
    database: Database, run_dir: RunDir, tmp_path: Path
) -> None:
    _write(run_dir, range(5), range(5, 9))
    shutil.copytree(run_dir.segments, tmp_path / "before")
    ingest(database, run_dir)
    shutil.copytree(tmp_path / "before", run_dir.segments, dirs_exist_ok=True)  # as if never deleted
    assert ingest(database, run_dir) == 0
    assert list_segments(run_dir.segments) == []
    assert recorded_steps(database, run_dir.run_id) == list(range(9))


def test_a_crash_before_the_commit_takes_nothing_and_loses_nothing(
    database: Database, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(run_dir, range(5), range(5, 9))
    execute = Cursor.execute

    def fails_at_commit(self: Cursor, sql: str, parameters=()) -> Cursor:
        if sql == "COMMIT":
            raise StoreError("the disk is full")
        return execute(self, sql, parameters)

    database.add_run({"run_id": run_dir.run_id})
    with monkeypatch.context() as patch:
        patch.setattr(Cursor, "execute", fails_at_commit)
        with pytest.raises(StoreError):
            ingest(database, run_dir)
    assert recorded_steps(database, run_dir.run_id) == []
    assert ingest(database, run_dir) == 9


def test_a_rollback_that_comes_back_after_a_crash_does_not_delete_newer_rows(
    database: Database, run_dir: RunDir, tmp_path: Path
) -> None:
    recorder = _write(run_dir, range(10))
    recorder.rollback(4)
    shutil.copytree(run_dir.segments, tmp_path / "before")
    ingest(database, run_dir)
    recorder.rows("metrics", losses(range(5, 10)))
    recorder.flush()
    ingest(database, run_dir)
    shutil.copytree(tmp_path / "before", run_dir.segments, dirs_exist_ok=True)
    ingest(database, run_dir)
    assert recorded_steps(database, run_dir.run_id) == list(range(10))


def test_numbers_go_on_in_a_new_process_even_when_all_were_taken_in(database: Database, run_dir: RunDir) -> None:
    _write(run_dir, range(2))
    first = list_segments(run_dir.segments)[-1].number
    ingest(database, run_dir)
    # The same content again, as a resumed run may write it: another segment, not a repetition.
    _write(run_dir, range(2))
    assert list_segments(run_dir.segments)[0].number > first
    assert ingest(database, run_dir) == 2
    assert recorded_steps(database, run_dir.run_id) == [0, 0, 1, 1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_segment_is_put_aside_and_the_rest_is_kept(database: Database, run_dir: RunDir, damage: str) -> None:
    _write(run_dir, range(3), range(3, 6), range(6, 9))
    path = list_segments(run_dir.segments)[1].path
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-7]), "empty": b""}[damage])
    assert ingest(database, run_dir) == 6
    assert recorded_steps(database, run_dir.run_id) == [0, 1, 2, 6, 7, 8]
    assert path.with_name(path.name + ".damaged").exists()
    (event,) = events(database, run_dir.run_id).to_dict("records")
    assert event["kind"] == "warning"
    assert path.name in event["message"]


def test_a_segment_this_lab_cannot_understand_is_put_aside_and_the_rest_is_kept(
    database: Database, run_dir: RunDir
) -> None:
    recorder = _write(run_dir, range(3))
    import pyarrow

    recorder._writer.write_table("metrics", pyarrow.table({"run_id": ["x"], "colour": ["red"]}))
    recorder._writer.write_table("horoscopes", pyarrow.table({"run_id": ["x"]}))
    recorder.rows("metrics", losses(range(3, 6)))
    recorder.flush()
    assert ingest(database, run_dir) == 6
    assert len(list(run_dir.segments.glob("*.damaged"))) == 2
    assert len(events(database, run_dir.run_id)) == 2


def test_what_came_of_a_prediction_arrives_after_it_and_only_there(database: Database, run_dir: RunDir) -> None:
    recorder = SegmentRecorder(run_dir)
    rows = [{"metric": name, "predicted": 1.0, "who": "forecast"} for name in ("val/loss", "system/memory_gib")]
    recorder.rows("predictions", rows)
    recorder.close()
    database.add_run({"run_id": "another"})
    database.add_prediction("another", "val/loss", 1.0, 1.0, 1.0, who="person")
    SegmentWriter(run_dir.segments).write_outcomes(run_dir.run_id, {"val/loss": 1.5})
    ingest(database, run_dir)
    found = predictions(database, run_dir.run_id).set_index("metric")["actual"]
    assert found["val/loss"] == 1.5
    assert math.isnan(found["system/memory_gib"])
    assert predictions(database, "another")["actual"].isna().all()


def test_a_half_written_segment_is_not_looked_at(database: Database, run_dir: RunDir) -> None:
    _write(run_dir, range(3))
    (run_dir.segments / ".00000001-metrics-0000000000000000.parquet.abc.tmp").write_bytes(b"PAR1 half")
    assert ingest(database, run_dir) == 3
    assert events(database, run_dir.run_id).empty


def test_a_run_that_the_database_has_never_seen_gets_its_row_from_its_folder(
    database: Database, run_dir: RunDir
) -> None:
    recorder = _write(run_dir, range(3))
    recorder.rows("runs", [{"status": "running", "n_params": 800_000}])
    recorder.flush()
    assert ingest_all(database) == 4
    row = run_row(database, run_dir.run_id)
    assert (row["name"], row["status"], row["n_params"]) == ("a run", "running", 800_000)
    assert row["config"]["data"]["corpus"] == "shakespeare"


def test_many_segments_arrive_in_order(database: Database, run_dir: RunDir) -> None:
    recorder = SegmentRecorder(run_dir)
    for number in range(100):
        recorder.rows("runs", [{"note": str(number)}])
        recorder.flush()
    ingest(database, run_dir)
    assert run_row(database, run_dir.run_id)["note"] == "99"


def test_looking_again_finds_only_what_is_new(database: Database, run_dir: RunDir) -> None:
    recorder = _write(run_dir, range(3))
    assert ingest_all(database) == 3
    assert ingest_all(database) == 0
    recorder.rows("metrics", losses(range(3, 5)))
    recorder.flush()
    assert ingest_all(database) == 2
    assert recorded_steps(database, run_dir.run_id) == list(range(5))


def test_what_comes_in_within_the_same_moment_as_a_look_is_not_overlooked(database: Database, run_dir: RunDir) -> None:
    recorder = _write(run_dir, range(3))
    stamp = run_dir.segments.stat().st_mtime_ns
    ingest_all(database)
    recorder.rows("metrics", losses(range(3, 5)))
    recorder.flush()
    os.utime(run_dir.segments, ns=(stamp, stamp))  # a coarse clock: the folder's time stamp tells nothing
    assert ingest_all(database) == 2
