"""The Fine-tuning page on the real engine, with a tiny model of random weights."""

from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.ui.finetuning_adapter import deltas_of, layer_table
from app.ui.finetuning_curve import first_drop, overfitting
from app.ui.finetuning_memory import extent_of
from app.ui.finetuning_plane import plane_data, verdict
from app.ui.finetuning_preview import chips_of, preview_of
from app.ui.finetuning_view import pairs
from app.ui.forecasts import get_forecasts
from lab.engine import Engine
from lab.finetuning.export import export_run, exports_of
from lab.forecast.budget import CUDA_CONTEXT, RESERVE, Budget
from lab.forecast.finetune_config import finetune_need
from lab.rundir import all_runs, find_run
from lab.sessions import shelf
from lab.store import run_row
from lab.store.looks import place_figures
from tests.app.conftest import HOME, PATIENCE_S
from tests.app.test_pages import button, wait_for, words_on
from tests.finetuning.helpers import config_for, tiny_folder


@pytest.fixture(autouse=True)
def no_models(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_MODEL_CACHE", str(lab_home / "models"))


@pytest.fixture
def folder(lab_home: Path) -> Path:
    return tiny_folder(lab_home / "tiny")


def opened(home: AppTest, **values: object) -> AppTest:
    """The page, with these fields filled in."""
    for name, value in values.items():
        home.session_state[f"ft_{name}"] = value
    page = home.switch_page("../pages/fine_tuning.py").run()
    assert not page.exception, page.exception
    return page


def trained(engine: Engine, folder: Path, **changes: object) -> str:
    config = config_for(folder, **{"eval_every": 2, "sample_tokens": 4, "max_steps": 4, **changes})
    run_id = engine.submit(config, name="a tiny tuning")
    wait_for(lambda: run_row(engine.database, run_id)["status"] in ("finished", "failed"))
    assert run_row(engine.database, run_id)["error"] is None
    return run_id


def test_without_runs_and_without_the_model_it_says_how_to_get_it(home: AppTest) -> None:
    page = opened(home)
    assert "smollm2-135m is not on this machine yet" in words_on(page).replace("\\", "")
    assert button(page, "ft_start").disabled


def test_the_preview_counts_rows_and_says_how_much_is_learnt(home: AppTest, folder: Path) -> None:
    said = words_on(opened(home, model=str(folder), max_length=512))
    assert "260 rows, format **instruction**" in said
    assert "234 to learn from, 26 to validate with" in said
    assert "Room in the adapter" in said
    assert "beside 21 layers" in said
    assert "fast mode needs" in said


def forecast_on(page: AppTest) -> AppTest:
    """The page when the other process has answered; a browser looks again by itself."""

    def is_there() -> bool:
        page.run()
        assert not page.exception, page.exception
        return "computing …" not in words_on(page).lower() and "Computing: one" not in words_on(page)

    wait_for(is_there)
    answers = get_forecasts()._answers
    wait_for(lambda: all(answer.is_done for answer in answers.values()))
    return page.run()


def test_the_memory_of_a_step_is_laid_beside_this_machine_and_16_gb(home: AppTest, folder: Path) -> None:
    for method in ("lora", "full"):
        page = forecast_on(opened(home, model=str(folder), max_length=512, method=method, memory=True))
        assert "The most tensors are alive in" in words_on(page)
        assert [metric.label for metric in page.metric] == ["This computer", "A GPU with 16 GB"]


def test_where_a_run_does_not_fit_one_click_puts_what_fits_into_the_form(
    home: AppTest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_length": 512, "precision": "fp32", "batch_size": 8}
    config = config_for(folder, **settings)
    need = finetune_need(config, "cuda", extent_of(config))
    small = Budget("16 GB", "cuda", CUDA_CONTEXT + RESERVE["cuda"] + round(0.7 * need.limited_bytes))
    monkeypatch.setattr("lab.forecast.budget.gpu_budget", lambda _: small)
    page = forecast_on(opened(home, model=str(folder), memory=True, **settings))
    assert "Fit me" in words_on(page)
    button(page, "ft_fit_16 GB_0").click().run()
    assert not page.exception, page.exception
    assert page.session_state["ft_gradient_checkpointing"] is True
    assert "Fit me" not in words_on(forecast_on(page))


def test_the_line_beside_the_form_says_the_need_and_knobs_without_memory_do_not_ask_again(
    home: AppTest, folder: Path
) -> None:
    page = forecast_on(opened(home, model=str(folder), max_length=512, memory=True))
    known = [caption.value for caption in page.sidebar.caption if "**Memory**" in caption.value]
    assert len(known) == 1
    assert "fits here" in known[0]
    assert "in 16 GB" in known[0]
    page.session_state["ft_learning_rate"] = 1e-5
    page.run()
    assert known[0] in [caption.value for caption in page.sidebar.caption]


def test_broken_rows_are_refused_on_start_and_no_run_is_made(home: AppTest, folder: Path) -> None:
    (folder / "rows.jsonl").write_text(
        '{"prompt": "Why?", "completion": ""}\n{"prompt": "How?", "completion": "So."}\n'
    )
    page = opened(home, model=str(folder), max_length=512, dataset=str(folder / "rows.jsonl"))
    button(page, "ft_start").click().run()
    assert not page.exception, page.exception
    assert r"Completion is empty\: row 1 of 2." in [error.value for error in page.error]
    assert all_runs() == []


def test_start_trains_and_shows_before_and_after(home: AppTest, folder: Path) -> None:
    quick = {"max_steps": 4, "eval_every": 2, "sample_tokens": 4, "precision": "fp32", "threads": 1, "max_length": 512}
    page = opened(home, model=str(folder), **quick)
    button(page, "ft_start").click().run()
    assert not page.exception, page.exception
    (run,) = all_runs()
    wait_for(lambda: run.info()["status"] in ("finished", "failed"))
    assert run.info()["status"] == "finished", run.info()["error"]
    page.run()
    assert not page.exception, page.exception
    said = words_on(page)
    assert "Before and after" in said
    assert "Learnt and forgotten" in said


def test_every_view_of_a_run_is_drawn(home: AppTest, engine: Engine, folder: Path) -> None:
    trained(engine, folder)
    page = opened(home)
    for view in ("Chat", "What the adapter did", "Export", "Checkpoints", "Events", "Settings", "Show the SQL"):
        page.segmented_control(key="finetuning_view").set_value(view).run()
        assert not page.exception, (view, page.exception)
        assert not page.error, (view, [error.value for error in page.error])


def test_what_the_adapter_did_is_told_against_the_layers_own_weights(engine: Engine, folder: Path) -> None:
    run_id = trained(engine, folder)
    found = layer_table(deltas_of(run_id, 4))
    recorded = place_figures(engine.database, run_id, "relative", "adapter")
    assert len(found) == len(recorded) == 21
    for row in found.to_dict("records"):
        assert row["relative"] == pytest.approx(recorded[row["layer"], row["part"]], rel=1e-6)
        assert row["relative"] > 0


def ask(page: AppTest, length: int = 4) -> AppTest:
    page.number_input(key="ft_chat_length").set_value(length)
    page = button(page, "FormSubmitter:ft_chat-Ask").click().run()
    assert not page.exception, page.exception
    return page


def test_asking_shows_both_answers_also_after_a_page_switch_and_a_reload(
    home: AppTest, engine: Engine, folder: Path
) -> None:
    run_id = trained(engine, folder)
    page = ask(opened(home))
    wait_for(lambda: (chat := engine.writing.chat(run_id)) is not None and chat.done)
    both = ("**Base**", "**Fine-tuned, strength 1**", "Answered by the state of step 4")
    page.run()
    assert not page.error
    assert all(part in words_on(page) for part in both)
    page.switch_page("../pages/probing.py").run()
    page = page.switch_page("../pages/fine_tuning.py").run()
    assert all(part in words_on(page) for part in both)
    reloaded = AppTest.from_file(str(HOME), default_timeout=PATIENCE_S).run()
    assert all(part in words_on(opened(reloaded)) for part in both), "a new session knows nothing but the address"


def test_answers_come_while_the_page_is_used_and_stop_ends_them(home: AppTest, engine: Engine, folder: Path) -> None:
    run_id = trained(engine, folder)
    session = shelf.get(run_id)
    with session.weights.lock:  # whoever writes has to wait for the next token
        page = ask(opened(home), length=400)
        assert button(page, "FormSubmitter:ft_chat-Ask").disabled
        page = page.segmented_control(key="finetuning_view").set_value("Events").run()
        page = page.segmented_control(key="finetuning_view").set_value("Chat").run()
        assert not page.exception, page.exception
        chat = engine.writing.chat(run_id)
        assert chat is not None
        assert not chat.done
        button(page, "ft_chat_stop").click().run()
    wait_for(lambda: chat.done)
    assert len(chat.base) <= 1
    assert chat.tuned == []
    page.run()
    assert not page.error
    assert not button(page, "FormSubmitter:ft_chat-Ask").disabled


def test_an_empty_question_is_one_sentence(home: AppTest, engine: Engine, folder: Path) -> None:
    run_id = trained(engine, folder)
    page = opened(home)
    page.text_input(key="ft_chat_question").set_value("  ")
    page = ask(page)
    wait_for(lambda: (chat := engine.writing.chat(run_id)) is not None and chat.done)
    page.run()
    assert [error.value for error in page.error] == [r"The question is empty\: type at least one word."]


def test_export_writes_the_files_and_shows_the_proof(home: AppTest, engine: Engine, folder: Path) -> None:
    run_id = trained(engine, folder)
    page = opened(home)
    page.segmented_control(key="finetuning_view").set_value("Export").run()
    button(page, "ft_export").click().run()
    assert not page.exception, page.exception
    (made,) = exports_of(find_run(run_id))
    assert made.certificate["verdict"] == "equivalent"
    assert "same likeliest token at 100.0%" in words_on(page)


def test_outputs_lists_adapter_and_export_and_deletes_the_export(home: AppTest, engine: Engine, folder: Path) -> None:
    run = find_run(trained(engine, folder))
    made = export_run(run, "merged", numbers="fp32")
    page = home.switch_page("../pages/outputs.py").run()
    assert not page.exception, page.exception
    said = words_on(page)
    assert "2 on disk" in said
    assert "merged, fp32, step 4" in said.replace("\\", "")
    button(page, f"delete_{made.folder}").click().run()
    assert exports_of(run) == []
    assert "1 on disk" in words_on(page)
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_fork_keeps_the_model_and_starts_from_the_checkpoint(home: AppTest, engine: Engine, folder: Path) -> None:
    parent = trained(engine, folder)
    page = opened(home)
    page.segmented_control(key="finetuning_view").set_value("Checkpoints").run()
    button(page, f"fork_{parent}_4").click().run()
    assert not page.exception, page.exception
    assert "Fork of a tiny tuning from step 4" in words_on(page)
    page.number_input(key="ft_max_steps").set_value(6).run()
    button(page, "ft_start").click().run()
    assert not page.error, [error.value for error in page.error]
    child = next(run for run in all_runs() if run.run_id != parent)
    wait_for(lambda: child.info()["status"] in ("finished", "failed"))
    assert child.info()["status"] == "finished", child.info()["error"]
    assert child.info()["parent_step"] == 4


def test_the_plane_begins_in_the_corner_and_says_what_was_forgotten(engine: Engine, folder: Path) -> None:
    run_id = trained(engine, folder)
    data = plane_data(engine.database, run_id)
    assert list(data["step"]) == [0, 2, 4]
    assert (data["learnt"].iloc[0], data["forgotten"].iloc[0]) == (0, 0)
    assert "At step 4: learnt" in verdict(data)


def test_the_preview_marks_what_is_learnt_where_it_ends_and_what_is_cut(folder: Path) -> None:
    seen = preview_of(config_for(folder))
    example = seen.examples[0]
    from lab.finetuning.base import find_base

    tokenizer = find_base(str(folder)).tokenizer
    chips = chips_of(example, tokenizer, seen.frame.end, len(example.ids) - 1)
    assert [chip.kind for chip in chips].count("learnt") + 2 == sum(example.learn)
    assert chips[-1].kind == "cut"
    assert next(chip.label for chip in chips if chip.kind == "end") == "<|im_end|>"


def test_a_question_needs_an_answer_from_before_the_first_step() -> None:
    samples = pd.DataFrame(
        {"step": [0, 0, 5, 5], "prompt": ["a", "b", "a", "c"], "text": ["old a", "old b", "new a", "new c"]}
    )
    assert pairs(samples) == [("a", "old a", "new a", 5), ("b", "old b", "old b", 0)]


def test_overfitting_begins_where_the_validation_loss_was_lowest() -> None:
    def curve(*values: float) -> pd.DataFrame:
        return pd.DataFrame({"step": range(0, 10 * len(values), 10), "last": values, "mean": values})

    assert overfitting(curve(3.0, 1.0, 1.2, 1.5)) == 10
    assert overfitting(curve(3.0, 1.0, 0.9, 0.905)) is None
    assert first_drop(curve(*[3.0] * 2, *[1.0] * 23)) == (50, 0.8)
    assert first_drop(curve(*[3.0 - 0.1 * step for step in range(25)])) is None
