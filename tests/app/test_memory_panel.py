"""What the memory panel says, from forecasts of real configs."""

import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import psutil
import pytest
from streamlit.testing.v1 import AppTest

from app.ui.forecasts import Forecasts, Look, get_forecasts
from app.ui.memory_after import by_device, error_history
from app.ui.memory_figure import MOST_MOMENTS, is_modelled_drawn, laid_over, measured_rows, step_figure, step_rows
from app.ui.memory_panel import said_beside
from lab.config import PRESETS, PretrainConfig, build_pretrain, changed, differences
from lab.engine import Engine
from lab.forecast import adviser
from lab.forecast.answers import Answer
from lab.forecast.bare import bare
from lab.forecast.budget import gpu_budget
from lab.forecast.memory import MemoryForecast, forecast
from lab.forecast.patience import GivenUpError, giving_up_when
from lab.rundir import create_run, find_run
from lab.store import list_runs, run_row
from tests.app.test_pages import button, tiny, trained, wait_for, words_on
from tests.training.test_out_of_memory import config_of as large_model
from tests.training.test_out_of_memory import starve

pytestmark = pytest.mark.filterwarnings("ignore")


def config_of(**values: object) -> PretrainConfig:
    small = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "context_length": 32, "precision": "fp32", "device": "cpu"}
    return build_pretrain({**small, **values})


def drawn_on_top(found: MemoryForecast) -> int:
    """What is modelled (on a CPU: what this very process holds) is drawn only beside a run of that size."""
    return sum(part.bytes for part in found.modelled) if is_modelled_drawn(found) else 0


def test_bands_stand_on_each_other_and_reach_what_is_needed() -> None:
    found = forecast(config_of(vocab_size=50_257, batch_size=64), "cuda")
    table = pd.DataFrame(step_rows(found))
    for _, bands in table.groupby("moment"):
        assert bands["bottom"].iloc[0] == 0
        assert bands["bottom"].iloc[1:].tolist() == bands["top"].iloc[:-1].tolist()
    assert table["top"].max() * 2**30 == pytest.approx(found.peak_bytes + drawn_on_top(found))


def test_a_deep_model_is_drawn_with_few_moments_and_keeps_its_peak() -> None:
    found = forecast(config_of(n_layers=96), "cpu")
    table = pd.DataFrame(step_rows(found))
    assert table["moment"].max() < 1.5 * MOST_MOMENTS
    of_step = table[~table["phase"].isin(["evaluation", "generation"])]
    step = max(found.phases[phase].bytes for phase in ("forward", "backward", "update"))
    assert of_step["top"].max() * 2**30 == pytest.approx(step + found.checkpoint_bytes + drawn_on_top(found))


def test_the_figure_is_a_valid_chart() -> None:
    found = forecast(config_of(), "cuda")
    assert step_figure(found, gpu_budget(16), "#000").to_dict()["layer"]


def test_knobs_that_do_not_matter_for_memory_ask_the_same_question() -> None:
    config = config_of()
    same = changed(config, learning_rate=0.1, max_steps=9, seed=4)
    assert Look(bare(config), "cpu", "here") == Look(bare(same), "cpu", "here")
    assert bare(changed(config, batch_size=3)) != bare(config)


def test_an_answer_that_nobody_waits_for_is_given_up() -> None:
    with giving_up_when(lambda: True), pytest.raises(GivenUpError):
        forecast(config_of(emb_dim=34), "cpu")


def test_the_thread_answers_everything_and_what_a_tab_left_is_dropped() -> None:
    forecasts = Forecasts(lambda: False)
    left, wanted = (Look(bare(config_of(emb_dim=width)), "cpu", "16 GB") for width in (40, 48))
    forecasts.ask("tab", left)
    forecasts.ask("tab", wanted)
    answer = done(forecasts, wanted)
    assert answer.error == ""
    assert answer.sides["16 GB"].verdict.colour == "green"
    assert answer.savings
    assert answer.options
    assert answer.largest is not None
    assert answer.largest["batch_size"]
    assert forecasts._answers.get(left) is None
    forecasts.close()


def done(forecasts: Forecasts, look: Look) -> Answer:
    for _ in range(2_000):  # the process makes way for other tests
        answer = forecasts.ask("tab", look)
        if answer is not None and answer.is_done:
            return answer
        threading.Event().wait(0.1)
    raise AssertionError("no forecast came")


def test_an_answer_of_the_other_process_is_the_one_computed_here() -> None:
    forecasts = Forecasts(lambda: False)
    config = config_of(emb_dim=56, n_layers=5)
    answer = done(forecasts, Look(bare(config), "cpu", "here"))
    for target, device in (("here", "cpu"), ("16 GB", "cuda")):
        assert answer.sides[target].forecast.document() == forecast(bare(config), device).document()
    forecasts.close()


def test_what_was_replayed_before_is_answered_at_once() -> None:
    forecasts = Forecasts(lambda: False)
    config = config_of(emb_dim=56, n_layers=5)
    done(forecasts, Look(bare(config), "cpu", "here"))
    for n_layers in (7, 9, 11):
        near = changed(config, n_layers=n_layers, learning_rate=0.5)
        if (answer := forecasts.ask("tab", Look(bare(near), "cpu", "here"))) is not None:
            break  # at the first try, but for a machine that stands still for a moment
    assert answer is not None
    assert answer.sides.keys() == {"here", "16 GB"}
    forecasts.close()


def test_beside_a_training_the_need_comes_at_once_and_the_rest_only_when_it_is_asked_for() -> None:
    forecasts = Forecasts(lambda: True)
    look = Look(bare(config_of(emb_dim=52)), "cpu", "here")
    for _ in range(2_000):
        if (answer := forecasts.ask("tab", look, in_full=False)) is not None:
            break
        threading.Event().wait(0.1)
    assert answer is not None
    assert answer.sides.keys() == {"here", "16 GB"}
    threading.Event().wait(1.0)
    assert forecasts.ask("tab", look, in_full=False) == answer, "nobody asked for more"
    for _ in range(2_000):
        if (more := forecasts.ask("tab", look)) is not None and more.savings is not None:
            break
        threading.Event().wait(0.1)
    assert more is not None
    assert more.savings
    forecasts.close()


def test_a_process_that_was_killed_says_so_and_the_next_question_starts_another() -> None:
    forecasts = Forecasts(lambda: False)
    first, second = (Look(bare(config_of(emb_dim=width)), "cpu", "here") for width in (60, 64))
    done(forecasts, first)
    (child,) = [one for one in psutil.Process().children() if "lab.forecast.child" in one.cmdline()]
    forecasts.ask("tab", second)
    child.kill()
    assert "has ended" in done(forecasts, second).error
    third = Look(bare(config_of(emb_dim=72)), "cpu", "here")
    assert done(forecasts, third).error == ""
    forecasts.close()
    assert not [one for one in psutil.Process().children() if "lab.forecast.child" in one.cmdline()]


def test_whatever_befalls_the_thread_is_said_once_and_the_next_question_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such device")

    forecasts = Forecasts(lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr("app.ui.forecasts._budgets", broken)
        assert "no such device" in done(forecasts, Look(bare(config_of(emb_dim=76)), "cpu", "here")).error
    assert done(forecasts, Look(bare(config_of(emb_dim=80)), "cpu", "here")).error == ""
    forecasts.close()


def test_the_process_ends_with_the_one_that_asked() -> None:
    asks = (
        "import os; from lab.forecast.child import Child; child = Child(); child.has_cuda(); "
        "print(child._process.pid, flush=True); os._exit(9)"
    )
    said = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, timeout=60)
    pid = int(said.stdout)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        threading.Event().wait(0.1)
    raise AssertionError("it goes on without anybody to answer")


def test_each_memory_knob_says_beside_its_field_what_another_value_saves(pretraining: AppTest) -> None:
    answer = answered(pretraining)
    assert answer.savings
    shown = [caption.value for caption in pretraining.sidebar.caption]
    for saving in answer.savings:
        assert said_beside(saving) in shown
    assert any(said.startswith("on: **−") for said in shown), "gradient checkpointing saves something"


def answered(page: AppTest) -> Answer:
    """What the page's own question came to, once the page shows it."""
    config = PRESETS["pocket"]
    for _ in range(2_000):
        answers = [answer for answer in get_forecasts()._answers.values() if answer.is_done]
        if answers:
            page.run()
            assert not page.exception
            assert answers[0].sides["here"].forecast.config.model.emb_dim == config.model.emb_dim
            return answers[0]
        threading.Event().wait(0.1)
    raise AssertionError("no forecast came")


def test_errors_are_summed_up_by_device() -> None:
    past = pd.DataFrame({"device": ["cpu", "cpu", "cuda"], "measured": "a step", "error_percent": [-10.0, 2.0, 1.0]})
    table = by_device(past).set_index("Device")
    assert table.loc["cpu", "Forecasts"] == 2
    assert table.loc["cpu", "Median error"] == "6.0 %"
    assert table.loc["cpu", "Largest error"] == "10.0 %"


def point(phase: str, size: int, layer: int | None = None) -> dict[str, object]:
    return {"phase": phase, "micro_batch": 0, "layer": layer, "line": "x.py:1", "kinds": {"activations": size}}


def test_a_measured_step_is_laid_over_its_forecast_layer_by_layer() -> None:
    forecast = [point("forward", 1), point("forward", 2, 0), point("forward", 3), point("backward", 3, 0)]
    measured = [
        point("forward", 1), point("forward", 2), point("forward", 2, 0), point("forward", 3), point("backward", 3, 0),
        point("evaluation", 9),
    ]  # fmt: skip
    rows = measured_rows(forecast, measured)
    assert [row["moment"] for row in rows] == [0.25, 0.75, 1.5, 2.5, 3.5], "two points before the first layer share it"
    assert laid_over(forecast, measured, "#000").to_dict()["layer"]


def test_after_a_run_its_first_step_lies_over_the_forecast_and_the_errors_are_kept_by_device(
    pretraining: AppTest, engine: Engine
) -> None:
    run_id = trained(engine)
    pretraining.query_params["run"] = run_id
    pretraining.run()
    assert not pretraining.exception
    said = words_on(pretraining)
    assert "the line is the run's first real step, each of its tensors followed" in said
    (table,) = [frame.value for frame in pretraining.dataframe if "Median error" in frame.value.columns]
    errors = dict(zip(table["Measured"], table["Largest error"], strict=True))
    assert float(errors["one step, each tensor followed"].removesuffix(" %")) < 1
    assert set(table["Device"]) == {"cpu"}
    with engine.cursor() as cursor:
        history = error_history(cursor)
    assert set(history["measured"]) <= {"one step, each tensor followed", "whole run, growth of resident memory"}


def test_a_run_that_really_ran_out_of_memory_goes_on_from_its_last_state_with_one_click(
    pretraining: AppTest, engine: Engine, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 200)
    run = create_run(changed(large_model(text), batch_size=256, max_steps=1))
    assert "Out of memory in the forward of step 1." in str(starve(run, "forward")["error"])
    wait_for(lambda: run_row(engine.database, run.run_id)["status"] == "failed")
    pretraining.query_params["run"] = run.run_id
    pretraining.run()
    assert "It ran out of memory in the forward of step 1." in words_on(pretraining)
    before = set(list_runs(engine.database)["run_id"])
    button(pretraining, "fits_0").click().run()
    assert not pretraining.exception
    (new,) = set(list_runs(engine.database)["run_id"]) - before
    wait_for(lambda: run_row(engine.database, new)["status"] == "finished")
    row = run_row(engine.database, new)
    assert (row["parent_run_id"], row["parent_step"]) == (run.run_id, 0)
    assert find_run(new).config().sequences_per_step == run.config().sequences_per_step, "the effective batch stays"


@pytest.mark.parametrize("has_state", [True, False])
def test_one_click_goes_on_with_a_change_that_fits(
    pretraining: AppTest, engine: Engine, monkeypatch: pytest.MonkeyPatch, has_state: bool
) -> None:
    if has_state:  # it ran out of memory in the middle: its last state is there
        run_id = trained(engine, batch_size=8)
        advice = [
            {"changes": {"batch_size": 2, "grad_accum_steps": 4, "max_steps": 6}, "sentence": "micro-batches of 2"}
        ]
        find_run(run_id).update_info(out_of_memory={"phase": "backward", "step": 5, "advice": advice})
        where = "It ran out of memory in the backward of step 5."
    else:  # it was not even started
        limit = round(0.7 * forecast(changed(tiny(batch_size=64, eval_tokens=64), vocab_size=60), "cpu").peak_bytes)
        monkeypatch.setattr(adviser, "free_memory", lambda: (limit, limit))
        run_id = trained(engine, batch_size=64, eval_tokens=64)
        assert run_row(engine.database, run_id)["status"] == "failed"
        where = "It was not started"
    pretraining.query_params["run"] = run_id
    pretraining.run()
    said = words_on(pretraining)
    assert where in said
    before = set(list_runs(engine.database)["run_id"])
    button(pretraining, "fits_0").click().run()
    assert not pretraining.exception
    (new,) = set(list_runs(engine.database)["run_id"]) - before
    wait_for(lambda: run_row(engine.database, new)["status"] == "finished")
    row = run_row(engine.database, new)
    assert row["parent_run_id"] == (run_id if has_state else None)
    assert differences(find_run(run_id).config(), find_run(new).config()).keys() <= {
        "batch_size", "grad_accum_steps", "max_steps", "gradient_checkpointing", "attention_impl", "optimizer",
    }  # fmt: skip
    assert pretraining.query_params["run"] == new
