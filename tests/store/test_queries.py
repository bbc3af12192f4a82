import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.config import PRESETS, to_json
from lab.errors import RunError
from lab.models.parts import training_flops_per_token
from lab.store import Database, checkpoints, latest, list_runs, metric_names, run_row, series, several
from lab.store.curves import Axis

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One record for many examples; each takes a run id of its own."""
    with Database.open(tmp_path_factory.mktemp("record") / "runs.duckdb") as database:
        yield database


def _record(database: Database, steps: list[int], values: list[float]) -> str:
    run_id = f"r{next(_numbers)}"
    database.add_run({"run_id": run_id})
    rows = [(run_id, step, step * 10, step / 4, "a", value) for step, value in zip(steps, values, strict=True)]
    with database.writing() as cursor:
        if rows:
            cursor.append("metrics", ["run_id", "step", "tokens_seen", "elapsed_s", "name", "value"], rows)
    return run_id


curves = st.lists(st.tuples(st.integers(0, 5_000), st.floats(width=32)), max_size=200, unique_by=lambda pair: pair[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(curve=curves, max_points=st.integers(1, 60))
def test_bucketing_hides_no_spike_and_counts_what_is_not_finite(
    shared: Database, curve: list[tuple[int, float]], max_points: int
) -> None:
    curve = sorted(curve)
    run_id = _record(shared, [step for step, _ in curve], [value for _, value in curve])
    found = series(shared, run_id, "a", max_points=max_points)
    finite = [(step, value) for step, value in curve if math.isfinite(value)]
    assert len(found) <= max_points
    assert found.attrs["rows"] == found["count"].sum() == len(finite)
    assert found.attrs["nonfinite"] == len(curve) - len(finite)
    assert found.attrs["nonfinite_steps"] == [s for s, v in curve if not math.isfinite(v)][:20]
    if finite:
        assert found["low"].min() == min(value for _, value in finite)
        assert found["high"].max() == max(value for _, value in finite)
        assert found["last"].iloc[-1] == finite[-1][1]
        assert found["step"].is_monotonic_increasing
        assert (found["low"] <= found["last"]).all()
        assert (found["last"] <= found["high"]).all()


def test_points_stay_as_they_are_while_the_run_grows(shared: Database) -> None:
    values = np.random.default_rng(0).normal(size=2_000).tolist()
    short = series(shared, _record(shared, list(range(1_500)), values[:1_500]), "a", max_points=1_000)
    longer = series(shared, _record(shared, list(range(2_000)), values), "a", max_points=1_000)
    assert short.attrs["bucket"] == longer.attrs["bucket"] == 2
    assert longer.iloc[: len(short)].equals(short)


def test_few_rows_are_shown_each_however_long_the_run(shared: Database) -> None:
    run_id = _record(shared, list(range(0, 1_000_000, 1_000)), [1.0] * 1_000)
    found = series(shared, run_id, "a", max_points=1_000)
    assert found.attrs["bucket"] == 1
    assert len(found) == 1_000


@pytest.mark.parametrize(("axis", "expected"), [("step", 8), ("tokens_seen", 80), ("elapsed_s", 2.0)])
def test_x_can_be_steps_tokens_or_seconds(shared: Database, axis, expected: float) -> None:
    found = series(shared, _record(shared, [0, 4, 8], [3.0, 2.0, 1.0]), "a", x=axis)
    assert found["x"].iloc[-1] == expected


def test_x_can_be_the_arithmetic_of_training_whatever_the_size(shared: Database) -> None:
    config = PRESETS["pocket"]
    run_id = _record(shared, [0, 4], [3.0, 2.0])
    with pytest.raises(RunError, match="FLOPs"):
        series(shared, run_id, "a", x="flops")
    shared.update_run(run_id, n_params=1_000)
    assert series(shared, run_id, "a", x="flops")["x"].iloc[-1] == 40 * 6 * 1_000
    shared.update_run(run_id, config=to_json(config))
    assert series(shared, run_id, "a", x="flops")["x"].iloc[-1] == 40 * training_flops_per_token(config.model)


def test_the_best_so_far_follows_the_direction_of_the_metric(shared: Database) -> None:
    run_id = _record(shared, [0, 1, 2, 3], [3.0, 1.0, 2.0, 0.5])
    assert list(series(shared, run_id, "a")["best"]) == [3.0, 1.0, 1.0, 0.5]
    with shared.writing() as cursor:
        cursor.execute("UPDATE metrics SET name = 'train/mfu' WHERE run_id = ?", [run_id])
    assert list(series(shared, run_id, "train/mfu")["best"]) == [3.0, 3.0, 3.0, 3.0]


def test_the_sql_of_a_curve_yields_the_same_rows(shared: Database) -> None:
    run_id = _record(shared, list(range(50)), [float(step % 7) for step in range(50)])
    found = series(shared, run_id, "a", max_points=10)
    with shared.cursor() as cursor:
        assert cursor.execute(found.attrs["sql"]).df().equals(found)


@pytest.mark.parametrize("axis", ["step", "tokens_seen", "elapsed_s", "flops"])
def test_several_curves_by_one_statement_are_the_curves_one_by_one(shared: Database, axis: Axis) -> None:
    draw = np.random.default_rng(1)
    runs = {}
    for steps in (5, 40, 300, 0):  # of other buckets each; the last has recorded nothing
        run_id = _record(shared, list(range(3, 3 + steps)), draw.normal(size=steps).tolist())
        shared.update_run(run_id, n_params=100 + steps)
        runs[run_id] = f"it's {steps}"
    _record(shared, [0, 1], [1.0, math.nan])  # nobody asks for it
    with shared.writing() as cursor:
        cursor.append("metrics", ["run_id", "step", "name", "value"], [(next(iter(runs)), 9, "a", math.nan)])
    found = several(shared, runs, "a", axis, max_points=30)
    assert found.attrs["nonfinite"] == 1
    for place, (run_id, called) in enumerate(runs.items()):
        alone = series(shared, run_id, "a", axis, max_points=30)
        own = found[found["place"] == place].reset_index(drop=True)
        assert set(own["run"]) <= {called}
        pandas.testing.assert_frame_equal(own[alone.columns], alone, check_flags=False)
    with shared.cursor() as cursor:
        assert cursor.execute(found.attrs["sql"]).df().equals(found)


def test_an_unknown_axis_is_refused(shared: Database) -> None:
    with pytest.raises(ValueError, match="x is"):
        series(shared, "r", "a", x="value) --")  # type: ignore[arg-type]


def test_a_metric_without_rows_is_an_empty_curve(shared: Database) -> None:
    found = series(shared, "nobody", "a")
    assert found.empty
    assert list(found.columns) == ["step", "x", "low", "high", "mean", "last", "count", "best"]


def test_latest_is_the_value_of_the_last_step_and_tells_a_nan(shared: Database) -> None:
    assert latest(shared, _record(shared, [5, 9, 7], [1.0, 2.0, 3.0])) == {"a": (2.0, 9)}
    run_id = _record(shared, [1, 2], [1.0, math.nan])
    assert math.isnan(latest(shared, run_id)["a"].value)
    assert metric_names(shared, run_id) == ["a"]


def test_lists_show_newest_first_without_deleted_runs_with_last_and_best_loss(database: Database) -> None:
    for number in range(3):
        database.add_run({"run_id": f"r{number}", "created_at": f"2026-11-2{number} 10:00:00+00", "status": "finished"})
    with database.writing() as cursor:
        rows = [("r1", step, "val/loss", value) for step, value in enumerate([3.0, 1.5, 2.0])]
        cursor.append("metrics", ["run_id", "step", "name", "value"], rows)
    database.delete_run("r0")
    found = list_runs(database)
    assert list(found["run_id"]) == ["r2", "r1"]
    assert tuple(found.loc[1, ["val_loss", "best_val_loss"]]) == (2.0, 1.5)
    assert list(list_runs(database, status="running")["run_id"]) == []
    assert list_runs(database, limit=2).equals(found)
    assert list(list_runs(database, limit=1)["run_id"]) == ["r2"]
    assert list_runs(database, status="failed", limit=1).empty


def test_an_unknown_run_is_one_sentence(database: Database) -> None:
    with pytest.raises(RunError, match="'nobody'"):
        run_row(database, "nobody")


def test_a_forgotten_checkpoint_is_no_longer_listed(database: Database) -> None:
    with database.writing() as cursor:
        rows = [("r", 10, "resume"), ("r", 10, "kept"), ("r", 20, "final")]
        cursor.append("checkpoints", ["run_id", "step", "kind"], rows)
    database.delete_checkpoint("r", 10, "resume")
    assert list(checkpoints(database, "r")["kind"]) == ["kept", "final"]


def test_sums_come_as_plain_numbers(lab_home: Path, database: Database) -> None:
    with database.cursor() as cursor:
        answer = cursor.execute("SELECT sum(range) AS s, count(*) AS n, 1 AS n FROM range(4)")
        assert answer.dicts() == [{"s": 6, "n": 4, "n_2": 1}]
        assert str(answer.df()["s"].dtype) == "int64"
