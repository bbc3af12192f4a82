"""What the memory panel says, from forecasts of real configs."""

import threading

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.ui.forecasts import Answer, Forecasts, Question, get_forecasts
from app.ui.memory_after import by_device
from app.ui.memory_figure import MOST_MOMENTS, is_modelled_drawn, step_figure, step_rows
from app.ui.memory_panel import said_beside
from lab.config import PRESETS, PretrainConfig, build_pretrain, changed
from lab.forecast.bare import bare
from lab.forecast.budget import gpu_budget
from lab.forecast.memory import GivenUpError, MemoryForecast, forecast, giving_up_when

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
    assert Question(bare(config), "cpu", "here") == Question(bare(same), "cpu", "here")
    assert bare(changed(config, batch_size=3)) != bare(config)


def test_an_answer_that_nobody_waits_for_is_given_up() -> None:
    with giving_up_when(lambda: True), pytest.raises(GivenUpError):
        forecast(config_of(emb_dim=34), "cpu")


def test_the_thread_answers_everything_and_what_a_tab_left_is_dropped() -> None:
    forecasts = Forecasts()
    left, wanted = (Question(bare(config_of(emb_dim=width)), "cpu", "16 GB") for width in (40, 48))
    forecasts.ask("tab", left)
    forecasts.ask("tab", wanted)
    for _ in range(600):
        answer = forecasts.ask("tab", wanted)
        if answer is not None and answer.is_done:
            break
        threading.Event().wait(0.1)
    assert answer is not None
    assert answer.error == ""
    assert answer.sides["16 GB"].verdict.colour == "green"
    assert answer.savings
    assert answer.options
    assert answer.largest is not None
    assert answer.largest["batch_size"]
    assert forecasts._answers.get(left) is None


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
    for _ in range(600):
        answers = [answer for answer in get_forecasts()._answers.values() if answer.is_done]
        if answers:
            page.run()
            assert not page.exception
            assert answers[0].sides["here"].forecast.config.model.emb_dim == config.model.emb_dim
            return answers[0]
        threading.Event().wait(0.1)
    raise AssertionError("no forecast came")


def test_errors_are_summed_up_by_device() -> None:
    past = pd.DataFrame({"device": ["cpu", "cpu", "cuda"], "error_percent": [-10.0, 2.0, 1.0]})
    table = by_device(past).set_index("Device")
    assert table.loc["cpu", "Forecasts"] == 2
    assert table.loc["cpu", "Median error"] == "6.0 %"
    assert table.loc["cpu", "Largest error"] == "10.0 %"
