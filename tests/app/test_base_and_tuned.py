"""Base and fine-tuned model on the looking pages: one load, a switch, and a comparison."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lab.engine import Engine
from lab.sessions import shelf
from tests.app.test_looking import attention, group
from tests.app.test_pages import button, trained, words_on
from tests.sessions.test_base_and_adapter import local_adapter, tuned_run
from tests.tiny_models import saved, tiny


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    shelf.clear()
    return saved(tiny("llama"), tmp_path / "llama")


def selectbox(page: AppTest, key: str):
    return next(found for found in page.selectbox if found.key == key)


def differences(page: AppTest) -> list[float]:
    """Of the heads that differ most, from their buttons: `LAYER.HEAD · value`."""
    return [float(b.label.split(" · ")[1]) for b in page.button if (b.key or "").startswith("differs_")]


def test_an_adapter_and_its_base_are_one_load_and_one_switch(
    engine: Engine, home: AppTest, llama: Path, tmp_path: Path
) -> None:
    page = attention(home)
    page.query_params["model"] = str(local_adapter(llama, tmp_path / "poet", zero=False))
    page = page.run()
    page = button(page, "look_button").click().run()
    assert not page.exception
    assert "**poet**" in words_on(page)
    page = group(page, "attention_view").set_value("Compare").run()
    assert not page.exception
    assert not page.error
    assert selectbox(page, "other_pick").value == str(llama), "its base is offered first"
    assert max(differences(page)) > 0.001

    page = group(page, "variant_pick").set_value("Base").run()
    assert not page.exception
    assert "**llama, the base**" in words_on(page)
    assert page.query_params["variant"] == "Base"
    assert len(shelf.loaded()) == 1
    page = page.switch_page("../pages/probing.py").run()
    assert not page.exception
    assert "**llama, the base**" in words_on(page)
    page = group(page, "variant_pick").set_value("Fine-tuned").run()
    page = group(page, "probing_view").set_value("Who wrote it").run()
    assert not page.exception
    assert not page.error, "the parts of a tuned model's heads add up too"
    assert "**poet**" in words_on(page)
    assert len(shelf.loaded()) == 1


def test_an_adapter_of_zeros_is_drawn_as_no_difference(
    engine: Engine, home: AppTest, llama: Path, tmp_path: Path
) -> None:
    page = attention(home)
    page.query_params["model"] = str(local_adapter(llama, tmp_path / "new", zero=True))
    page = page.run()
    page = button(page, "look_button").click().run()
    page = group(page, "attention_view").set_value("Compare").run()
    assert set(differences(page)) == {0.0}
    page = page.switch_page("../pages/probing.py").run()
    page = group(page, "probing_view").set_value("What each layer did").run()
    page = next(w for w in page.toggle if w.key == "branches_other").set_value(True).run()
    assert not page.exception
    assert not page.error
    assert "How far what each branch adds is from" in words_on(page)


def test_a_fine_tuning_run_is_in_the_list_and_opens_beside_its_base(engine: Engine, home: AppTest, llama: Path) -> None:
    run_id = tuned_run(llama, steps=(1, 2)).run_id
    trained(engine)
    info = {"run_id": run_id, "name": "tuned", "kind": "finetune", "created_at": "2026-11-20T00:00:00+00:00"}
    engine.database.add_run({**info, "host": "here", "status": "finished", "seed": 1, "config": {}})
    with engine.database.writing() as cursor:
        cursor.execute(
            "INSERT INTO checkpoints (run_id, step, path, kind) VALUES (?, 2, 'checkpoints/x', 'kept')", [run_id]
        )
    page = attention(home)
    page = selectbox(page, "model_pick").set_value(run_id).run()
    page = button(page, "look_button").click().run()
    assert not page.exception
    assert not page.error
    assert "**tuned, step 2**" in words_on(page)
    page = group(page, "attention_view").set_value("Compare").run()
    assert selectbox(page, "other_pick").value == str(llama)
    assert max(differences(page)) > 0.001
    assert len(shelf.loaded()) == 1
