import pandas as pd
import pytest

from app.ui.charts import Style, overlay, overlay_data, parallel_data, smoothed
from app.ui.run_facts import lineage, verdict
from app.ui.runs_search import condition_text, from_text, parse_condition, to_text
from lab.engine import Engine
from lab.errors import StoreError
from lab.store import Condition, RunSearch, series
from tests.app.kept import keep


def test_a_moving_average_of_a_constant_is_the_constant() -> None:
    assert list(smoothed(pd.Series([3.0] * 5), 0.9)) == pytest.approx([3.0] * 5)


def test_a_moving_average_weighs_the_past_as_told() -> None:
    # After 2 values with weight 0.5: (1 * 4 + 0.5 * 2) / 1.5, without a pull to the first.
    assert list(smoothed(pd.Series([2.0, 4.0]), 0.5)) == pytest.approx([2.0, 5.0 / 1.5])
    assert list(smoothed(pd.Series([2.0, 4.0]), 0.0)) == [2.0, 4.0]


def test_axes_of_parallel_coordinates_go_from_smallest_to_largest() -> None:
    values = pd.DataFrame({"rate": [1e-3, 3e-3, 2e-3], "tokenizer": ["gpt2", "char", "gpt2"]}, index=["a", "b", "c"])
    long = parallel_data(values).set_index(["run", "axis"])["place"]
    assert [long[run, "rate"] for run in "abc"] == pytest.approx([0, 1, 0.5])
    assert [long[run, "tokenizer"] for run in "abc"] == [1, 0, 1]


def test_a_run_without_a_value_has_no_point_on_that_axis() -> None:
    values = pd.DataFrame({"rate": [1e-3, None], "loss": [2.0, 3.0]}, index=["a", "b"])
    assert set(parallel_data(values)[["run", "axis"]].itertuples(index=False, name=None)) == {
        ("a", "rate"), ("a", "loss"), ("b", "loss")
    }  # fmt: skip


def test_best_so_far_never_rises_and_a_log_axis_leaves_out_zero(engine: Engine) -> None:
    names = {keep(engine, "one"): "one", keep(engine, "two", ends_at=5.0): "two"}
    with engine.cursor() as cursor:
        best = overlay_data(cursor, names, "val/loss", Style(best=True))
        logs = overlay_data(cursor, names, "val/loss", Style(log_x=True))
        drawn = series(cursor, next(iter(names)), "val/loss")
    assert best.groupby("run")["drawn"].apply(lambda values: values.is_monotonic_decreasing).all()
    assert list(best[best["run"] == "one"]["drawn"]) == list(drawn["best"])
    assert logs["x"].min() == 1


def test_a_smoothed_overlay_keeps_the_raw_lines_behind(engine: Engine) -> None:
    names = {keep(engine, "one"): "one"}
    with engine.cursor() as cursor:
        data = overlay_data(cursor, names, "val/loss", Style(smoothing=0.9))
    drawn = overlay(data, style=Style(smoothing=0.9), y_title="nats").to_dict()
    assert [layer["encoding"]["y"]["field"] for layer in drawn["layer"]] == ["raw", "drawn"]


def test_a_family_is_told_from_its_oldest_ancestor_on(engine: Engine) -> None:
    parent, child, other = (keep(engine, name) for name in ("parent", "child", "other"))
    grandchild = keep(engine, "grandchild")
    engine.database.update_run(child, parent_run_id=parent, parent_step=10)
    engine.database.update_run(grandchild, parent_run_id=child, parent_step=20)
    with engine.cursor() as cursor:
        for member in (parent, child, grandchild):
            told = [(depth, one["name"]) for depth, one in lineage(cursor, member)]
            assert told == [(0, "parent"), (1, "child"), (2, "grandchild")]
        assert [one["name"] for _, one in lineage(cursor, other)] == ["other"]


@pytest.mark.parametrize(
    ("actual", "said"),
    [
        (2.1, "within the range, 0.1 above"),
        (1.5, "outside the range, 0.5 below"),
        (float("nan"), "not known yet"),
    ],
)
def test_a_guess_gets_a_verdict(actual: float, said: str) -> None:
    assert verdict({"predicted": 2.0, "low": 1.8, "high": 2.2, "actual": actual}) == said


@pytest.mark.parametrize("text", ["learning_rate >= 0.001", "tokenizer = char", "corpus contains shake", "seed != 3"])
def test_a_condition_reads_back_as_it_was_written(text: str) -> None:
    assert condition_text(parse_condition(text)) == text


@pytest.mark.parametrize("text", ["learning_rate", "learning_rate ~ 3", ">= 3", "", "a; DROP TABLE runs = 1"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="is no condition"):
        parse_condition(text)


def test_a_search_reads_back_from_the_address_and_the_default_is_not_written() -> None:
    search = RunSearch(text="a b", status=("failed",), conditions=(Condition("seed", "=", "1"),), ascending=True)
    assert from_text(to_text(search)) == search
    assert to_text(RunSearch()) == "{}"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"colour": 1}', '{"conditions": [1]}'])
def test_a_broken_address_is_one_sentence(text: str) -> None:
    with pytest.raises(StoreError):
        from_text(text)
