"""Totals kept for runs that ended are those of their rows, whatever was done to the rows before."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.rundir import RunDir
from lab.store import Database, DatabaseRecorder, SegmentRecorder, ingest, list_runs
from lab.store.totals import COLUMNS
from tests.store.conftest import losses

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database.open(tmp_path_factory.mktemp("record") / "runs.duckdb") as database:
        yield database


def _kept_and_made(database: Database, run_id: str) -> tuple[list, list]:
    """What the view says, and what the rows come to."""
    with database.cursor() as cursor:
        names = [name for (name,) in cursor.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = 'run_totals' ORDER BY column_index"
        ).fetchall()]  # fmt: skip
        listed = ", ".join(names)
        said = cursor.execute(f"SELECT {listed} FROM metric_totals WHERE run_id = ? ORDER BY name", [run_id])
        kept = said.fetchall()
        sql = (
            f"SELECT {listed} FROM (SELECT {COLUMNS} FROM metrics GROUP BY run_id, name) WHERE run_id = ? ORDER BY name"
        )
        made = cursor.execute(sql, [run_id]).fetchall()
    return [_comparable(row) for row in kept], [_comparable(row) for row in made]


def _comparable(row: tuple) -> tuple:
    return tuple("nan" if isinstance(value, float) and math.isnan(value) else value for value in row)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.lists(st.floats(width=32), min_size=1, max_size=5)),
        st.tuples(st.just("status"), st.sampled_from(["queued", "running", "paused", "finished", "failed"])),
        st.tuples(st.just("rollback"), st.integers(0, 10)),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=actions)
def test_totals_are_those_of_the_rows_after_any_course_of_events(shared: Database, actions: list) -> None:
    run_id, step = f"r{next(_numbers)}", 0
    shared.add_run({"run_id": run_id, "status": "queued"})
    recorder = DatabaseRecorder(shared, run_id)
    for kind, argument in actions:
        if kind == "rows":
            rows = [{"step": step + i, "name": f"m{i % 2}", "value": value} for i, value in enumerate(argument)]
            recorder.rows("metrics", rows)
            step += len(rows)
        elif kind == "status":
            recorder.rows("runs", [{"status": argument}])
        else:
            recorder.rollback(argument)
        recorder.flush()
        kept, made = _kept_and_made(shared, run_id)
        assert kept == made


def test_rows_that_come_in_after_the_end_are_counted(database: Database, run_dir: RunDir) -> None:
    recorder = SegmentRecorder(run_dir)
    recorder.rows("metrics", losses(range(3)))
    recorder.rows("runs", [{"status": "finished"}])
    recorder.flush()
    ingest(database, run_dir)
    assert list_runs(database)["step"][0] == 2
    recorder.rows("metrics", losses(range(3, 6)))
    recorder.flush()
    ingest(database, run_dir)
    assert list_runs(database)["step"][0] == 5
    kept, made = _kept_and_made(database, run_dir.run_id)
    assert kept == made


def test_a_list_of_runs_that_ended_reads_no_metric_rows(database: Database) -> None:
    for number in range(3):
        database.add_run({"run_id": f"r{number}", "status": "running"})
        recorder = DatabaseRecorder(database, f"r{number}")
        recorder.rows("metrics", losses(range(10)))
        recorder.rows("runs", [{"status": "finished"}])
        recorder.close()
    before = list_runs(database)
    with database.writing() as cursor:
        cursor.execute("DELETE FROM metrics")  # behind the totals' back
    assert list_runs(database).equals(before)


def test_an_older_record_is_summed_up_when_it_is_opened(lab_home: Path) -> None:
    with Database.open() as database:
        database.add_run({"run_id": "r", "status": "finished"})
        with database.writing() as cursor:
            cursor.append("metrics", ["run_id", "step", "name", "value"], [("r", 1, "val/loss", 2.0)])
    with Database.open() as database, database.cursor() as cursor:
        assert cursor.execute("SELECT run_id, last_value FROM run_totals").fetchall() == [("r", 2.0)]
