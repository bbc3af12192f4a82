"""What was seen inside models: stored once, read back over a run, gone with the run."""

import pytest

from lab.rundir import RunDir
from lab.store import Database, DatabaseRecorder, SegmentRecorder
from lab.store.adopt import adopt
from lab.store.looks import head_history, layer_history, put_look, runs_with_checkpoints
from lab.store.segments import ingest


def seen(step: int, value: float) -> list[dict]:
    return [
        {"step": step, "text": "t", "layer": 0, "head": head, "name": "induction", "value": value * (head + 1)}
        for head in (0, 1)
    ]


@pytest.fixture
def recorder(database: Database, run_dir: RunDir) -> DatabaseRecorder:
    return DatabaseRecorder(database, run_dir.run_id)


def test_a_runs_heads_come_back_by_step(database: Database, run_dir: RunDir, recorder: DatabaseRecorder) -> None:
    for step in (0, 10, 20):
        recorder.rows("head_stats", seen(step, step / 100))
    recorder.flush()
    found = head_history(database, run_dir.run_id, "induction", "t")
    assert found["step"].tolist() == [0, 0, 10, 10, 20, 20]
    assert found["value"].tolist() == pytest.approx([0, 0, 0.1, 0.2, 0.2, 0.4])
    with database.cursor() as cursor:
        assert cursor.execute(found.attrs["sql"]).df().equals(found)


def test_sql_tells_which_heads_score_rose_most(database: Database, recorder: DatabaseRecorder) -> None:
    recorder.rows("head_stats", seen(800, 0.1) + seen(1200, 0.3))
    recorder.flush()
    sql = """
        SELECT layer, head, max(value) FILTER (step = 1200) - max(value) FILTER (step = 800) AS rose
        FROM head_stats WHERE name = 'induction' GROUP BY ALL ORDER BY rose DESC LIMIT 1
    """
    with database.cursor() as cursor:
        assert cursor.execute(sql).fetchall() == [(0, 1, pytest.approx(0.4))]


def test_steps_that_are_done_again_lose_their_heads(
    database: Database, run_dir: RunDir, recorder: DatabaseRecorder
) -> None:
    recorder.rows("head_stats", seen(10, 0.1) + seen(20, 0.2))
    recorder.rollback(10)
    assert set(head_history(database, run_dir.run_id, "induction", "t")["step"]) == {10}


def test_a_run_of_another_process_brings_its_heads_in_segments(database: Database, run_dir: RunDir) -> None:
    recorder = SegmentRecorder(run_dir)
    recorder.rows("head_stats", seen(5, 0.5))
    row = {"step": 5, "text": "t", "layer": 0, "point": "delta_ffn", "name": "length", "value": 3.0}
    recorder.rows("layer_stats", [row])
    recorder.close()
    adopt(database, run_dir)
    ingest(database, run_dir)
    assert len(head_history(database, run_dir.run_id, "induction", "t")) == 2
    assert layer_history(database, run_dir.run_id, "delta_ffn", "length", "t")["value"].tolist() == [3.0]


def test_the_same_look_twice_is_stored_once(database: Database) -> None:
    key = {"model": "smollm2-135m", "step": None, "text": "t"}
    rows = [{"layer": 0, "head": 0, "name": "sink", "value": 0.5}]
    put_look(database, "head_stats", None, key, rows)
    put_look(database, "head_stats", None, key, rows)
    put_look(database, "head_stats", None, {**key, "text": "another"}, rows)
    with database.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM head_stats").fetchall() == [(2,)]


def test_only_runs_with_a_checkpoint_can_be_opened(
    database: Database, run_dir: RunDir, recorder: DatabaseRecorder
) -> None:
    adopt(database, run_dir)
    assert runs_with_checkpoints(database).empty
    recorder.rows("checkpoints", [{"step": 1, "path": "x", "bytes": 1, "kind": "final"}])
    recorder.flush()
    assert runs_with_checkpoints(database)["run_id"].tolist() == [run_dir.run_id]
