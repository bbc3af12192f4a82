"""The pages that look inside models, without a browser."""

import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lab.engine import Engine
from tests.app.test_pages import button, trained, wait_for, words_on

ATTENTION_VIEWS = ["Over training", "Compare", "Switch heads off", "Rollout"]
PROBING_VIEWS = [
    "Who wrote it", "Length of the stream", "What each layer did", "Where the answer passes", "What can be read off",
    "Alike or not",
]  # fmt: skip
REPOSITORY = Path(__file__).parents[2]


def attention(home: AppTest) -> AppTest:
    return home.switch_page("../pages/attention.py").run()


def test_the_looking_pages_are_painted_without_loading_torch(lab_home: Path) -> None:
    script = (
        "import sys; from streamlit.testing.v1 import AppTest;"
        "at = AppTest.from_file('app/Home.py', default_timeout=60).run();"
        "at.switch_page('../pages/attention.py').run(); assert not at.exception, at.exception;"
        "assert at.title[0].value == 'Attention';"
        "at.switch_page('../pages/probing.py').run(); assert not at.exception, at.exception;"
        "assert at.title[0].value == 'Probing';"
        "print('torch' in sys.modules); from app.ui.state import get_engine; get_engine().shutdown()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_a_lab_without_a_model_offers_to_pull_one_and_says_what_it_is(home: AppTest, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LAB_MODEL_CACHE", str(tmp_path / "none"))
    page = attention(home)
    assert not page.exception
    assert "smollm2" in page.info[0].value
    assert "Apache" in page.info[0].value
    assert button(page, "pull_plan")


def test_a_look_at_ones_own_model_shows_tokens_badge_and_kinds(engine: Engine, home: AppTest) -> None:
    trained(engine)
    page = attention(home)
    button(page, "look_button").click().run()
    assert not page.exception
    assert "as the model sees them" in words_on(page)
    assert "checked, largest error" in words_on(page)


def test_each_view_of_both_pages_draws(engine: Engine, home: AppTest) -> None:
    trained(engine, checkpoint_every=2)
    page = attention(home)
    button(page, "look_button").click().run()
    for script, key, views in (
        ("attention", "attention_view", ATTENTION_VIEWS),
        ("probing", "probing_view", PROBING_VIEWS),
    ):
        page = page.switch_page(f"../pages/{script}.py").run()
        for view in views:
            page = next(w for w in page.get("button_group") if w.key == key).set_value(view).run()
            assert not page.exception, (script, view, page.exception)
            assert not page.error, (script, view, page.error[0].value)


def test_what_was_looked_at_is_in_the_record_for_sql(engine: Engine, home: AppTest) -> None:
    run_id = trained(engine)
    page = attention(home)
    button(page, "look_button").click().run()
    page.switch_page("../pages/probing.py").run()
    with engine.cursor() as cursor:
        sql = "SELECT count(*) FROM {} WHERE run_id = ? AND model IS NOT NULL AND text LIKE 'Long live%'"
        for table in ("head_stats", "layer_stats"):
            (count,) = cursor.execute(sql.format(table), [run_id]).fetchall()[0]
            assert count > 0, table


def test_the_model_stays_chosen_on_the_other_page(engine: Engine, home: AppTest) -> None:
    first = trained(engine)
    trained(engine, seed=2)
    page = attention(home)
    pick = next(w for w in page.selectbox if w.key == "model_pick")
    assert pick.value != first, "the newest run comes first"
    page = pick.set_value(first).run()
    page = page.switch_page("../pages/probing.py").run()
    assert next(w for w in page.selectbox if w.key == "model_pick").value == first
    assert page.query_params["model"] == first


def test_a_text_longer_than_the_model_reads_is_cut_and_says_so(engine: Engine, home: AppTest) -> None:
    trained(engine)  # reads 16 tokens
    page = attention(home)
    button(page, "look_button").click().run()
    assert "The first 16 of 57 tokens were read" in words_on(page)


def group(page: AppTest, key: str):
    return next(found for found in page.get("button_group") if found.key == key)


def test_of_a_long_text_every_head_has_its_figures_and_one_layer_its_weights(
    engine: Engine, home: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.ui import attention_heads, attention_more, looking

    run_id = trained(engine, n_layers=2)
    page = attention(home)
    button(page, "look_button").click().run()
    sql = "SELECT layer, head, name, value FROM head_stats WHERE run_id = ? AND text LIKE 'Long live%' ORDER BY ALL"
    with engine.cursor() as cursor:
        whole = cursor.execute(sql, [run_id]).fetchall()
    for module in (looking, attention_heads, attention_more):
        monkeypatch.setattr(module, "MOST_WHOLE", 8)
    monkeypatch.setattr(attention_heads, "PART", 6)
    page = page.run()
    assert not page.exception
    assert "A long text: every head has its figures" in words_on(page)
    assert "A cell stands for 3 tokens each way" in words_on(page)
    with engine.cursor() as cursor:
        assert cursor.execute(sql, [run_id]).fetchall() == whole, "the summary's figures are those of all weights"
    page = group(page, "head_large_view").set_value("The chosen part").run()
    assert not page.exception
    page = group(page, "head_view").set_value("Mean of its layer").run()
    assert not page.exception
    page = group(page, "attention_view").set_value("Rollout").run()
    assert "take a text of at most 8 tokens" in words_on(page)


def test_a_capture_is_kept_under_its_run_and_compared_later(engine: Engine, home: AppTest) -> None:
    from lab.analysis.stored import stored_captures

    first, second = trained(engine), trained(engine, seed=2)
    page = attention(home)
    button(page, "look_button").click().run()
    page = button(page, "capture_keep").click().run()
    assert not page.exception
    assert not page.error
    (kept,) = stored_captures()
    assert second in str(kept.path), "the newest run is shown first"
    assert kept.about["tokens"][:4] == ["L", "o", "n", "g"]

    page = next(w for w in page.selectbox if w.key == "model_pick").set_value(first).run()
    page = group(page, "attention_view").set_value("Compare").run()
    page = group(page, "second_source").set_value("A stored capture").run()
    assert not page.exception
    assert not page.error
    assert "How much each head changed" in words_on(page)
    assert "(stored)" in words_on(page)
    page.text_area[0].set_value("Another text.").run()
    assert "That capture is of another text" in words_on(page)
    page = button(page, "stored_text").click().run()
    assert "How much each head changed" in words_on(page)

    page = page.switch_page("../pages/probing.py").run()
    page = group(page, "probing_view").set_value("Alike or not").run()
    page = next(w for w in page.toggle if w.key == "cka_other").set_value(True).run()
    assert not page.exception
    assert not page.error
    page = button(page, "stored_delete").click().run()
    assert not stored_captures()
    assert "No capture is kept yet" in words_on(page)


def test_any_model_that_is_looked_at_can_write(engine: Engine, home: AppTest) -> None:
    trained(engine)
    page = attention(home)
    button(page, "look_button").click().run()
    page = button(page, "looking_generate").click().run()
    wait_for(lambda: all(one.done for one in engine.writing._texts.values()))
    page = page.run()
    assert not page.exception
    assert not page.error
    assert "Written by the state of step 4" in words_on(page)


def test_one_token_can_be_looked_at(engine: Engine, home: AppTest) -> None:
    trained(engine)
    page = attention(home)
    button(page, "look_button").click().run()
    page.text_area[0].set_value("a").run()
    assert not page.exception
    assert not page.error
    page = page.switch_page("../pages/probing.py").run()
    assert not page.exception
    assert not page.error


def test_numbers_that_may_be_wrong_are_not_drawn(
    engine: Engine, home: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from lab.analysis import checks

    trained(engine)
    monkeypatch.setattr(checks, "branches_error", lambda *_: torch.tensor(0.5))
    page = attention(home)
    button(page, "look_button").click().run()
    assert "numbers may be wrong" in page.error[0].value or "cannot be shown" in page.error[0].value
    assert "as the model sees them" not in words_on(page)


def test_an_empty_box_asks_for_a_word(engine: Engine, home: AppTest) -> None:
    trained(engine)
    page = attention(home)
    button(page, "look_button").click().run()
    page.text_area[0].set_value("  ").run()
    assert not page.exception
    assert "empty" in page.info[0].value


def test_a_character_the_model_does_not_know_is_named(engine: Engine, home: AppTest) -> None:
    trained(engine)
    page = attention(home)
    button(page, "look_button").click().run()
    page.text_area[0].set_value("\N{SNOWMAN}").run()
    assert not page.exception
    assert "\N{SNOWMAN}" in page.error[0].value
