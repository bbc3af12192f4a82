"""The real pages on the real engine, without a browser."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lab.config import PRESETS, PretrainConfig, changed
from lab.engine import Engine
from lab.store import list_runs, predictions, run_row

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60


def tiny(**values: object) -> PretrainConfig:
    """A run of a second or two."""
    shape = {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "batch_size": 2}
    quick = {"corpus": "tiny", "eval_tokens": 64, "sample_tokens": 8, "precision": "fp32", "threads": 1}
    return changed(PRESETS["pocket"], **{**shape, **quick, "max_steps": 4, **values})


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def trained(engine: Engine, **values: object) -> str:
    """A run that has ended."""
    run_id = engine.submit(tiny(**values), name="a tiny run", prediction=(4.0, 3.5, 4.5))
    wait_for(lambda: run_row(engine.database, run_id)["status"] in ("finished", "failed"))
    return run_id


def button(page: AppTest, key: str):
    return next(found for found in page.button if found.key == key)


def words_on(page: AppTest) -> str:
    kinds = ("markdown", "caption", "title", "subheader", "info", "error", "warning")
    return "\n".join(str(element.value) for kind in kinds for element in page.get(kind))


def test_the_first_page_is_painted_without_loading_torch(lab_home: Path) -> None:
    script = (
        "import sys; from streamlit.testing.v1 import AppTest;"
        "at = AppTest.from_file('app/Home.py', default_timeout=60).run(); assert not at.exception, at.exception;"
        "at.switch_page('../pages/pretraining.py').run(); assert not at.exception, at.exception;"
        "assert at.title[0].value == 'Pretraining';"
        "print('torch' in sys.modules); from app.ui.state import get_engine; get_engine().shutdown()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_home_of_an_empty_lab_says_where_to_start(home: AppTest) -> None:
    assert not home.exception
    assert home.title[0].value == "LLM Learning Lab"
    assert "Nothing is running" in words_on(home)
    assert "None yet" in words_on(home)


def test_an_empty_runs_page_ends_with_a_link(home: AppTest) -> None:
    page = home.switch_page("../pages/runs.py").run()
    assert not page.exception
    assert page.info[0].value == "There are no runs yet."


def test_the_form_shows_what_the_knobs_mean_and_moves_with_them(pretraining: AppTest) -> None:
    assert not pretraining.exception
    assert "12 sequences = 768 tokens" in words_on(pretraining)
    accumulation = next(w for w in pretraining.number_input if w.key == "grad_accum_steps")
    accumulation.set_value(4).run()
    assert "48 sequences = 3,072 tokens" in words_on(pretraining)


def test_a_preset_fills_the_fields_it_is_about_and_leaves_the_others(pretraining: AppTest) -> None:
    next(w for w in pretraining.number_input if w.key == "weight_decay").set_value(0.3).run()
    next(w for w in pretraining.selectbox if w.key == "preset").set_value("nano").run()
    values = {w.key: w.value for w in pretraining.number_input}
    assert (values["emb_dim"], values["n_layers"], values["context_length"]) == (256, 6, 256)
    assert values["weight_decay"] == 0.3
    assert next(w for w in pretraining.selectbox if w.key == "tokenizer").value == "gpt2"
    assert "30.5 M" in words_on(pretraining)


def test_all_mistakes_are_listed_before_start_which_then_waits(pretraining: AppTest) -> None:
    next(w for w in pretraining.number_input if w.key == "emb_dim").set_value(130)
    next(w for w in pretraining.number_input if w.key == "stride").set_value(100)
    pretraining.run()
    assert "cannot be split" in pretraining.error[0].value.replace("\\", "")
    assert "stride 100 is longer" in pretraining.error[0].value.replace("\\", "")
    assert button(pretraining, "start").disabled


def test_a_text_too_short_for_the_context_is_said_with_the_arithmetic(pretraining: AppTest) -> None:
    next(w for w in pretraining.selectbox if w.key == "corpus").set_value("tiny")
    next(w for w in pretraining.number_input if w.key == "context_length").set_value(4_096)
    pretraining.run()
    assert "4,096 + 1 = 4,097" in pretraining.error[0].value.replace("\\", "")


def test_each_way_to_give_the_budget_keeps_its_own_value(pretraining: AppTest) -> None:
    budget = next(w for w in pretraining.selectbox if w.key == "budget")
    budget.set_value("max_epochs").run()
    keys = {w.key for w in pretraining.number_input}
    assert "max_epochs" in keys
    assert "max_steps" not in keys
    assert "= 1 epochs" in words_on(pretraining)


def test_start_makes_a_run_with_the_guess_and_shows_it(pretraining: AppTest, engine: Engine) -> None:
    for key, value in {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "max_steps": 3}.items():
        next(w for w in pretraining.number_input if w.key == key).set_value(value)
    next(w for w in pretraining.selectbox if w.key == "corpus").set_value("tiny")
    next(w for w in pretraining.selectbox if w.key == "precision").set_value("fp32")
    next(w for w in pretraining.number_input if w.key == "guess_guess").set_value(4.1)
    pretraining.run()
    button(pretraining, "start").click().run()
    assert not pretraining.exception
    assert not pretraining.error
    (run_id,) = list_runs(engine.database)["run_id"]
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "finished")
    assert run_row(engine.database, run_id)["name"] == "pocket on tiny"
    said = predictions(engine.database, run_id)
    assert list(said[said["who"] == "person"]["predicted"]) == [4.1]
    pretraining.run()
    assert not pretraining.exception
    assert "pocket on tiny" in words_on(pretraining)
    assert "Your guess: 4.1" in words_on(pretraining)


def test_a_finished_run_shows_figures_settings_and_its_final_checkpoint(home: AppTest, engine: Engine) -> None:
    run_id = trained(engine)
    page = home.switch_page("../pages/pretraining.py").run()
    assert not page.exception
    labels = [metric.label for metric in page.metric]
    assert labels[:2] == ["Validation loss", "Bits per byte"]
    assert "final: the run's end" in words_on(page)
    assert button(page, f"fork_{run_id}_4")
    assert "It came to" in words_on(page)


def test_a_runs_settings_fill_the_form_only_when_asked(home: AppTest, engine: Engine) -> None:
    run_id = trained(engine, learning_rate=1.5e-3)
    page = home.switch_page("../pages/pretraining.py").run()
    rate = next(w for w in page.number_input if w.key == "learning_rate")
    assert rate.value == pytest.approx(4e-3)
    button(page, f"use_{run_id}").click().run()
    assert not page.exception
    assert next(w for w in page.number_input if w.key == "learning_rate").value == pytest.approx(1.5e-3)
    assert next(w for w in page.number_input if w.key == "emb_dim").value == 16


def test_a_fork_is_started_from_the_form(home: AppTest, engine: Engine) -> None:
    parent = trained(engine)
    page = home.switch_page("../pages/pretraining.py").run()
    button(page, f"fork_{parent}_4").click().run()
    assert "Fork of a tiny run from step 4" in words_on(page)
    next(w for w in page.number_input if w.key == "max_steps").set_value(6).run()
    button(page, "start").click().run()
    assert not page.exception
    assert not page.error
    runs = list_runs(engine.database)
    child = next(run_id for run_id in runs["run_id"] if run_id != parent)
    assert run_row(engine.database, child)["parent_run_id"] == parent
    wait_for(lambda: run_row(engine.database, child)["status"] == "finished")


def test_a_text_is_generated_by_the_engine_and_shown(home: AppTest, engine: Engine) -> None:
    trained(engine)
    page = home.switch_page("../pages/pretraining.py").run()
    next(w for w in page.text_area if w.key == "prompt").set_value("The boat").run()
    button(page, "generate").click().run()
    assert not page.exception
    wanted = page.session_state["generation"]
    wait_for(lambda: engine.writing.get(wanted).done)
    page.run()
    assert engine.writing.get(wanted).error is None
    assert "Written by the state of step 4" in words_on(page)


def test_an_unknown_character_in_a_prompt_is_one_sentence(home: AppTest, engine: Engine) -> None:
    trained(engine)
    page = home.switch_page("../pages/pretraining.py").run()
    next(w for w in page.text_area if w.key == "prompt").set_value("Ω").run()
    button(page, "generate").click().run()
    wait_for(lambda: engine.writing.get(page.session_state["generation"]).done)
    page.run()
    assert not page.exception
    assert "Ω" in page.error[0].value


def test_a_checkpoint_is_deleted_from_the_list(home: AppTest, engine: Engine) -> None:
    run_id = trained(engine, checkpoint_every=2)
    page = home.switch_page("../pages/pretraining.py").run()
    assert "step 2" in words_on(page)
    button(page, f"delete_{run_id}_2").click().run()
    assert not page.exception
    assert "**step 2**" not in words_on(page)


def test_home_and_runs_list_what_was_run(home: AppTest, engine: Engine) -> None:
    trained(engine)
    home.run()
    assert not home.exception
    assert list(home.dataframe[0].value["Run"]) == ["a tiny run"]
    page = home.switch_page("../pages/runs.py").run()
    assert not page.exception
    assert list(page.dataframe[0].value["Step"]) == ["4 of 4"]


def test_a_failed_run_says_why_in_one_sentence(home: AppTest, engine: Engine, lab_home: Path) -> None:
    own = lab_home / "mine.txt"
    own.write_text("a bear and a boat. " * 50)
    run_id = engine.submit(tiny(corpus=str(own), max_steps=100_000))
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "running")
    engine.pause(run_id)
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "paused")
    page = home.switch_page("../pages/pretraining.py").run()
    assert not page.exception
    assert button(page, f"head_unpause_{run_id}").label == "Resume"
    button(page, f"head_stop_{run_id}").click().run()
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "stopped")
    own.unlink()
    page.run()
    button(page, f"head_resume_{run_id}").click().run()
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "failed")
    page.run()
    assert not page.exception
    assert "mine" in page.error[0].value


def test_a_second_process_is_told_who_owns_the_record(engine: Engine) -> None:
    script = (
        "from streamlit.testing.v1 import AppTest;"
        "at = AppTest.from_file('app/Home.py', default_timeout=60).run(); assert not at.exception;"
        "print(at.error[0].value)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "process" in done.stdout
