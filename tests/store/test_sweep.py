import os
import time

import pytest

from lab.rundir import RunDir
from lab.store import Database, SegmentRecorder, events, run_row, sweep
from lab.store.sweep import settle_dead
from tests.store.conftest import losses, recorded_steps


def _status(database: Database, run_dir: RunDir) -> tuple[str, str]:
    return run_row(database, run_dir.run_id)["status"], run_dir.info()["status"]


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_run_whose_process_died_becomes_interrupted_everywhere(
    database: Database, run_dir: RunDir, status: str
) -> None:
    run_dir.update_info(status=status)
    recorder = SegmentRecorder(run_dir)
    recorder.rows("metrics", losses(range(4)))
    recorder.rows("runs", [{"status": status}])
    recorder.flush()
    assert sweep(database) == [run_dir.run_id]
    assert _status(database, run_dir) == ("interrupted", "interrupted")
    assert run_row(database, run_dir.run_id)["ended_at"] is not None
    assert recorded_steps(database, run_dir.run_id) == [0, 1, 2, 3]
    (event,) = events(database, run_dir.run_id).to_dict("records")
    assert (event["kind"], event["step"]) == ("interrupted", 3)
    assert sweep(database) == []
    assert len(events(database, run_dir.run_id)) == 1


def test_a_run_whose_process_lives_is_left_alone(database: Database, run_dir: RunDir) -> None:
    run_dir.update_info(status="running")
    with run_dir.lock():
        assert sweep(database) == []
        assert _status(database, run_dir) == ("running", "running")
    assert sweep(database) == [run_dir.run_id]


@pytest.mark.parametrize("status", ["queued", "finished", "stopped", "failed"])
def test_other_statuses_stay(database: Database, run_dir: RunDir, status: str) -> None:
    run_dir.update_info(status=status)
    assert sweep(database) == []
    assert _status(database, run_dir) == (status, status)


def test_the_folder_is_believed_when_the_last_segment_was_lost(database: Database, run_dir: RunDir) -> None:
    database.add_run({"run_id": run_dir.run_id, "status": "running"})
    run_dir.update_info(status="failed", error="The loss is not finite.")
    assert sweep(database) == []
    assert _status(database, run_dir) == ("failed", "failed")
    assert run_row(database, run_dir.run_id)["error"] == "The loss is not finite."


def test_a_run_that_ended_while_nobody_owned_the_record_is_read_in_whole(database: Database, run_dir: RunDir) -> None:
    recorder = SegmentRecorder(run_dir)
    recorder.rows("metrics", losses(range(100)))
    recorder.rows("runs", [{"status": "running"}, {"status": "finished"}])
    recorder.close()
    run_dir.update_info(status="finished")
    assert sweep(database) == []
    row = run_row(database, run_dir.run_id)
    assert (row["name"], row["status"], row["seed"]) == ("a run", "finished", 1337)
    assert len(recorded_steps(database, run_dir.run_id)) == 100


def test_a_run_of_another_host_is_judged_by_the_age_of_its_files(database: Database, run_dir: RunDir) -> None:
    run_dir.update_info(status="running", host="elsewhere")
    assert sweep(database) == []
    long_ago = time.time() - 3_600
    os.utime(run_dir.info_path, (long_ago, long_ago))
    assert sweep(database) == [run_dir.run_id]


def test_a_folder_with_a_damaged_config_is_read_in_with_a_warning(database: Database, run_dir: RunDir) -> None:
    run_dir.config_path.write_text('{"kind": "pre')
    sweep(database)
    assert run_row(database, run_dir.run_id)["name"] == "a run"
    assert "config.json" in events(database, run_dir.run_id)["message"][0]


def test_a_folder_with_a_damaged_run_json_does_not_stop_the_others(database: Database, run_dir: RunDir) -> None:
    broken = RunDir(run_dir.path.with_name("broken"))
    broken.path.mkdir()
    broken.info_path.write_text("{")
    sweep(database)
    assert run_row(database, run_dir.run_id)["status"] == "queued"
    assert run_row(database, "broken")["status"] == "failed"


def test_the_owner_notices_a_death_while_it_lives_and_reads_the_last_words_first(
    database: Database, run_dir: RunDir
) -> None:
    run_dir.update_info(status="running")
    recorder = SegmentRecorder(run_dir)
    with run_dir.lock():
        sweep(database)
        settle_dead(database)
        assert _status(database, run_dir) == ("running", "running")
        recorder.rows("metrics", losses(range(4)))
        recorder.rows("runs", [{"status": "running", "total_steps": 100}])
        recorder.flush()
    settle_dead(database)
    sweep(database)
    assert _status(database, run_dir) == ("interrupted", "interrupted")
    (event,) = events(database, run_dir.run_id).to_dict("records")
    assert event["step"] == 3
