from pathlib import Path

import numpy as np
import pytest

from lab.rundir import RunDir
from lab.store import Database, DatabaseRecorder, SegmentRecorder, events, ingest, latest, run_row, samples
from tests.store.conftest import losses, recorded_steps


@pytest.fixture(params=["database", "segments"])
def recorder(request: pytest.FixtureRequest, database: Database, run_dir: RunDir) -> DatabaseRecorder | SegmentRecorder:
    database.add_run({"run_id": run_dir.run_id, "status": "queued"})
    if request.param == "database":
        return DatabaseRecorder(database, run_dir.run_id)
    return SegmentRecorder(run_dir)


def test_rows_of_any_table_arrive_with_their_run(recorder, database: Database, run_dir: RunDir) -> None:
    recorder.rows("metrics", losses(range(3)))
    recorder.rows("samples", [{"step": 2, "prompt": "a", "text": "b", "seed": 1, "sampling": {"temperature": 0.8}}])
    recorder.rows("events", [{"kind": "started", "message": "off we go", "step": 0}])
    recorder.rows("runs", [{"status": "running", "versions": {"torch": "2.13"}}, {"total_steps": 3}])
    recorder.close()
    ingest(database, run_dir)
    assert recorded_steps(database, run_dir.run_id) == [0, 1, 2]
    assert samples(database, run_dir.run_id)["sampling"][0] == '{"temperature": 0.8}'
    event = events(database, run_dir.run_id).iloc[0]
    assert (event["kind"], event["level"], event["time"].tzname()) == ("started", "info", "UTC")
    row = run_row(database, run_dir.run_id)
    assert (row["status"], row["total_steps"], row["versions"]) == ("running", 3, {"torch": "2.13"})


def test_numbers_of_numpy_and_not_finite_ones_are_recorded_as_they_are(recorder, database, run_dir: RunDir) -> None:
    rows = [
        {"step": np.int64(0), "name": "a", "value": np.float32(0.5)},
        {"step": 1, "name": "b", "value": float("nan")},
        {"step": 1, "name": "c", "value": float("inf")},
    ]
    recorder.rows("metrics", rows)
    recorder.flush()
    ingest(database, run_dir)
    found = latest(database, run_dir.run_id)
    assert found["a"] == (0.5, 0)
    assert np.isnan(found["b"].value)
    assert found["c"].value == float("inf")


def test_rollback_deletes_what_lies_beyond_the_step_but_not_the_runs_story(recorder, database, run_dir: RunDir) -> None:
    recorder.rows("metrics", losses(range(10)))
    recorder.rows("samples", [{"step": step, "text": "x"} for step in (4, 8)])
    recorder.rows("checkpoints", [{"step": step, "kind": "kept"} for step in (4, 8)])
    recorder.rows("events", [{"step": 8, "kind": kind, "message": ""} for kind in ("checkpoint", "paused")])
    recorder.rollback(5)
    recorder.rows("metrics", losses(range(6, 8)))
    recorder.flush()
    ingest(database, run_dir)
    assert recorded_steps(database, run_dir.run_id) == list(range(8))
    assert list(samples(database, run_dir.run_id)["step"]) == [4]
    assert list(events(database, run_dir.run_id)["kind"]) == ["paused"]


def test_rollback_leaves_other_runs_alone(recorder, database: Database, run_dir: RunDir) -> None:
    other = DatabaseRecorder(database, "other")
    other.rows("metrics", losses(range(10)))
    other.flush()
    recorder.rollback(0)
    ingest(database, run_dir)
    assert len(recorded_steps(database, "other")) == 10


def test_a_misspelt_column_is_an_error_at_once(recorder) -> None:
    with pytest.raises(ValueError, match="vlaue"):
        recorder.rows("metrics", [{"step": 1, "vlaue": 2.0}])
    with pytest.raises(ValueError, match="no table"):
        recorder.rows("metric", [{"step": 1}])


def test_rows_are_written_together_and_not_more_often_than_the_interval(
    recorder, database: Database, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr("lab.store.recorder.time.monotonic", lambda: clock[0])
    recorder.flush()
    recorder.rows("metrics", losses([0]))
    ingest(database, run_dir)
    assert recorded_steps(database, run_dir.run_id) == []
    clock[0] += recorder.interval_s
    recorder.rows("metrics", losses([1]))
    ingest(database, run_dir)
    assert recorded_steps(database, run_dir.run_id) == [0, 1]


def test_a_failed_flush_raises_and_writes_none_of_its_rows(database: Database, run_dir: RunDir) -> None:
    recorder = DatabaseRecorder(database, run_dir.run_id)
    recorder.rows("metrics", losses(range(5)))
    recorder.rows("events", [{"kind": "started", "message": "", "step": "not a step"}])
    with pytest.raises(Exception, match="not a step"):
        recorder.flush()
    assert recorded_steps(database, run_dir.run_id) == []
    recorder.rows("metrics", losses([7]))
    recorder.flush()
    assert recorded_steps(database, run_dir.run_id) == [7]


def test_segments_on_a_full_disk_are_one_sentence_and_none_is_half_written(
    small_disk: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.errors import StoreError

    run = RunDir(small_disk / "run")
    recorder = SegmentRecorder(run)
    (small_disk / "ballast").write_bytes(b"x" * ((8 << 20) - (1 << 20)))
    rows = [{"step": s, "name": "a", "value": v} for s, v in enumerate(np.random.default_rng(0).normal(size=10_000))]
    acknowledged = 0
    with pytest.raises(StoreError, match="Free some disk space"):
        for _ in range(100):
            recorder.rows("metrics", rows)
            recorder.flush()
            acknowledged += len(rows)
    assert acknowledged > 0
    (small_disk / "ballast").unlink()
    assert ingest(database, run) == acknowledged
