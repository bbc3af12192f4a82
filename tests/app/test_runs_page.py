"""The Runs page on the real record: find, mark, edit, put away, open and compare."""

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.ui.run_exports import _archive, file_name
from app.ui.runs_import import take
from lab.engine import Engine
from lab.errors import StoreError
from lab.store import RunSearch, find_runs, labels, predictions, run_row
from lab.store.report import report
from lab.store.saved import save_view, saved_views
from tests.app.kept import keep
from tests.app.test_pages import button, tiny, trained, wait_for, words_on


@pytest.fixture
def runs(home: AppTest) -> AppTest:
    """The app, opened at Runs."""
    return home.switch_page("../pages/runs.py").run()


def at(page: AppTest, **query: str) -> AppTest:
    """The page at an address."""
    for key in list(page.query_params):
        del page.query_params[key]
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


def listed(page: AppTest) -> list[str]:
    return list(page.dataframe[0].value["Run"])


def widget(kind: Any, key: str) -> Any:
    return next(found for found in kind if found.key == key)


def test_the_search_narrows_the_list_and_stands_in_the_address(runs: AppTest, engine: Engine) -> None:
    keep(engine, "a wide one", emb_dim=256)
    keep(engine, "a narrow one")
    runs.run()
    assert listed(runs) == ["a narrow one", "a wide one"]
    widget(runs.text_input, "find_text").set_value("wide").run()
    assert listed(runs) == ["a wide one"]
    assert json.loads(runs.query_params["search"]) == {"text": "wide"}


def test_a_link_reopens_the_same_list(runs: AppTest, engine: Engine) -> None:
    for rate in (1e-3, 2e-3, 3e-3):
        keep(engine, f"rate {rate}", learning_rate=rate, ends_at=2.0 + rate)
    search = {
        "conditions": [{"setting": "learning_rate", "operator": ">=", "value": "0.002"}],
        "sort": "val/loss", "value": "best", "ascending": True,
    }  # fmt: skip
    at(runs, search=json.dumps(search))
    assert listed(runs) == ["rate 0.002", "rate 0.003"]
    assert list(runs.dataframe[0].value["val/loss"]) == pytest.approx([2.002, 2.003])
    assert widget(runs.multiselect, "find_conditions").value == ["learning_rate >= 0.002"]


def test_sorting_by_a_loss_begins_with_the_lowest(runs: AppTest, engine: Engine) -> None:
    for name, loss in (("good", 1.5), ("bad", 2.5), ("fair", 2.0)):
        keep(engine, name, ends_at=loss)
    runs.run()
    widget(runs.selectbox, "find_sort").set_value("val/loss").run()
    assert not runs.exception
    assert listed(runs) == ["good", "fair", "bad"]


def test_a_cut_link_is_one_sentence_and_lists_all(runs: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    at(runs, search='{"text": "w')
    assert "was the link cut off" in runs.error[0].value
    assert listed(runs) == ["one"]


def test_a_condition_that_is_none_is_said(runs: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    runs.run()
    widget(runs.multiselect, "find_conditions").set_value(["learning_rate about 3"]).run()
    assert "is no condition" in runs.warning[0].value
    assert listed(runs) == ["one"]


def test_a_view_is_kept_applied_and_forgotten(runs: AppTest, engine: Engine) -> None:
    keep(engine, "a wide one", emb_dim=256)
    keep(engine, "a narrow one")
    runs.run()
    widget(runs.text_input, "find_text").set_value("wide").run()
    widget(runs.text_input, "view_name").set_value("my wide ones").run()
    button(runs, "view_keep").click().run()
    assert saved_views(engine.database) == {"my wide ones": RunSearch(text="wide")}
    button(runs, "find_clear").click().run()
    assert len(listed(runs)) == 2
    button(runs, "view_my wide ones").click().run()
    assert listed(runs) == ["a wide one"]
    button(runs, "forget_my wide ones").click().run()
    assert saved_views(engine.database) == {}


def test_a_view_of_a_newer_lab_does_not_break_the_page(runs: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    save_view(engine.database, "odd", RunSearch(sort="val/nothing_yet"))
    runs.run()
    button(runs, "view_odd").click().run()
    assert not runs.exception
    assert listed(runs) == ["one"]


def test_marks_stand_in_the_address_and_offer_what_fits_their_number(runs: AppTest, engine: Engine) -> None:
    first, second = keep(engine, "one"), keep(engine, "two")
    at(runs, marked=first)
    assert button(runs, "marked_open")
    assert "**1 marked:** one" in words_on(runs)
    at(runs, marked=f"{first},{second}")
    button(runs, "marked_compare").click().run()
    assert not runs.exception
    assert runs.query_params["compare"] == f"{first},{second}"
    assert runs.title[0].value == "Compare"
    button(runs, "compare_back").click().run()
    assert runs.query_params["marked"] == f"{first},{second}"


def test_deleting_can_be_undone_and_purging_cannot(runs: AppTest, engine: Engine) -> None:
    run_id = keep(engine, "one")
    keep(engine, "two")
    at(runs, marked=run_id)
    button(runs, "marked_delete").click().run()
    assert listed(runs) == ["two"]
    assert "1 run put into the bin" in words_on(runs)
    button(runs, "runs_undo").click().run()
    assert listed(runs) == ["two", "one"]

    at(runs, marked=run_id)
    button(runs, "marked_delete").click().run()
    at(runs, marked=run_id, search='{"place": "deleted"}')
    assert listed(runs) == ["one"]
    button(runs, "marked_purge").click().run()
    assert not runs.exception
    assert find_runs(engine.database, RunSearch(place="deleted")).empty
    assert "The bin is empty" in runs.info[0].value


def test_archived_runs_leave_the_list_and_come_back(runs: AppTest, engine: Engine) -> None:
    run_id = keep(engine, "one")
    keep(engine, "two")
    at(runs, marked=run_id)
    button(runs, "marked_archive").click().run()
    assert listed(runs) == ["two"]
    at(runs, marked=run_id, search='{"place": "archived"}')
    button(runs, "marked_unarchive").click().run()
    at(runs, search='{"text": ""}')
    assert listed(runs) == ["two", "one"]


def test_tags_are_added_to_all_marked_runs(runs: AppTest, engine: Engine) -> None:
    first, second = keep(engine, "one"), keep(engine, "two")
    labels.set_tags(engine.database, first, ["old"])
    at(runs, marked=f"{first},{second}")
    widget(runs.text_input, "marked_tags").set_value("baseline, lr sweep").run()
    button(runs, "marked_tag_add").click().run()
    assert run_row(engine.database, first)["tags"] == ["old", "baseline", "lr sweep"]
    assert run_row(engine.database, second)["tags"] == ["baseline", "lr sweep"]


def test_a_run_is_opened_with_everything_of_it(runs: AppTest, engine: Engine) -> None:
    run_id = trained(engine)
    at(runs, run=run_id)
    said = words_on(runs)
    assert "a tiny run" in said
    assert [metric.label for metric in runs.metric][:2] == ["Validation loss", "Bits per byte"]
    outcomes = list(predictions(engine.database, run_id)["actual"])
    assert len(outcomes) >= 1
    tables = {tuple(frame.value.columns): frame.value for frame in runs.dataframe}
    expected = next(frame for columns, frame in tables.items() if "Verdict" in columns)
    assert list(expected["Came"]) == outcomes
    settings = next(frame for columns, frame in tables.items() if "Name" in columns)
    assert settings.set_index("Name").loc["emb_dim", "Value"] == "16"
    assert any("SHA-256" in columns for columns in tables)
    assert "It began from random numbers" in said


def test_name_tags_and_note_are_changed_where_they_stand(runs: AppTest, engine: Engine) -> None:
    run_id = keep(engine, "one")
    at(runs, run=run_id)
    widget(runs.text_input, f"label_name_{run_id}").set_value("the first").run()
    widget(runs.text_input, f"label_note_{run_id}").set_value("worth keeping").run()
    widget(runs.multiselect, f"label_tags_{run_id}").set_value(["good"]).run()
    assert not runs.exception
    row = run_row(engine.database, run_id)
    assert (row["name"], row["note"], row["tags"]) == ("the first", "worth keeping", ["good"])


def test_a_name_that_cannot_be_one_is_refused_in_a_sentence(runs: AppTest, engine: Engine) -> None:
    run_id = keep(engine, "one")
    at(runs, run=run_id)
    widget(runs.text_input, f"label_name_{run_id}").set_value("a/b").run()
    assert "cannot be a run's name" in "".join(error.value for error in runs.error).replace("\\", "")
    assert run_row(engine.database, run_id)["name"] == "one"


def test_an_address_of_a_purged_run_says_so(runs: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    at(runs, run="20200101-000000-abcd")
    assert "was it purged" in runs.info[0].value


def test_a_comparison_shows_differences_figures_and_luck(runs: AppTest, engine: Engine) -> None:
    ids = [
        keep(engine, "base", ends_at=2.00, seed=1), keep(engine, "base again", ends_at=2.02, seed=2),
        keep(engine, "other", ends_at=2.01, learning_rate=1e-3, seed=1),
        keep(engine, "other again", ends_at=2.03, learning_rate=1e-3, seed=2),
    ]  # fmt: skip
    at(runs, compare=",".join(ids))
    figures = next(frame.value for frame in runs.dataframe if "Verdict" in frame.value.columns)
    verdicts = dict(zip(figures["Run"], figures["Verdict"], strict=True))
    assert verdicts["base"] == "best"
    assert verdicts["base again"] == "another seed of the best, n = 2"
    assert verdicts["other"] == "within seed noise, n = 2"
    diff = next(frame.value for frame in runs.dataframe if "learning_rate" in frame.value.index)
    assert list(diff.index) == ["learning_rate", "seed"]
    widget(runs.toggle, "compare_only").set_value(False).run()
    whole = next(frame.value for frame in runs.dataframe if "learning_rate" in frame.value.index)
    assert len(whole) > 20


@pytest.mark.parametrize("over", ["step", "tokens", "seconds", "FLOPs"])
def test_a_comparison_is_drawn_over_every_axis(runs: AppTest, engine: Engine, over: str) -> None:
    ids = [keep(engine, "one"), keep(engine, "two", ends_at=2.5)]
    at(runs, compare=",".join(ids))
    widget(runs.get("button_group"), "compare_over").set_value(over).run()
    assert not runs.exception
    assert not runs.error


def test_a_link_reopens_a_comparison_as_it_was_looked_at(runs: AppTest, engine: Engine) -> None:
    ids = [keep(engine, "one"), keep(engine, "two", ends_at=2.5)]
    at(runs, compare=",".join(ids), compare_over="tokens", compare_metric="train/loss", compare_best="true")
    assert widget(runs.get("button_group"), "compare_over").value == "tokens"
    assert widget(runs.selectbox, "compare_metric").value == "train/loss"
    assert widget(runs.toggle, "compare_best").value is True


def test_one_click_queues_the_missing_controlled_run(runs: AppTest, engine: Engine) -> None:
    small = {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "batch_size": 2, "precision": "fp32"}
    one = keep(engine, "one", **small, max_steps=3, learning_rate=1e-3, drop_rate=0.0)
    two = keep(engine, "two", **small, max_steps=3, learning_rate=2e-3, drop_rate=0.1)
    at(runs, compare=f"{one},{two}")
    assert "These two differ in drop_rate and learning_rate" in words_on(runs).replace("\\", "")
    before = set(find_runs(engine.database)["run_id"])
    button(runs, "queue_0").click().run()
    assert not runs.exception
    assert not runs.error
    (new,) = set(find_runs(engine.database)["run_id"]) - before
    config = run_row(engine.database, new)["config"]
    assert config["optim"]["learning_rate"] == 1e-3
    assert config["model"]["drop_rate"] == 0.1
    wait_for(lambda: run_row(engine.database, new)["status"] == "finished")
    runs.run()
    assert "is there" in words_on(runs)


def test_a_fork_is_told_from_a_fresh_run_and_its_controlled_run_is_forked_from_the_same_state(
    runs: AppTest, engine: Engine
) -> None:
    parent = trained(engine)
    fresh = engine.submit(tiny(max_steps=6, learning_rate=0.001), name="fresh")
    same = engine.fork(parent, 4, tiny(max_steps=6, learning_rate=0.001), name="same")
    fork = engine.fork(parent, 4, tiny(max_steps=6, learning_rate=0.002), name="fork")
    wait_for(lambda: run_row(engine.database, fork)["status"] == "finished")
    at(runs, compare=f"{fresh},{same}")
    said = words_on(runs)
    assert "These two differ in where they began" in said
    assert "a fork goes on from weights that another run has learned" in said
    (table,) = [frame.value for frame in runs.dataframe if list(frame.value.get("Setting", [])) == ["where they began"]]
    assert list(table.iloc[0]) == ["where they began", "random weights", "step 4 of a tiny run"]
    (settings,) = [frame.value for frame in runs.dataframe if "where they began" in frame.value.index]
    assert list(settings.loc["where they began"]) == ["random weights", "step 4 of a tiny run"]

    at(runs, compare=f"{fresh},{fork}")
    assert "These two differ in learning_rate and where they began" in words_on(runs).replace("\\", "")
    before = set(find_runs(engine.database)["run_id"])
    button(runs, "queue_0").click().run()  # fresh with the fork's learning rate: from random weights
    button(runs, "controlled_1")  # fork with the fresh one's learning rate is there: `same`
    (new,) = set(find_runs(engine.database)["run_id"]) - before
    assert run_row(engine.database, new)["parent_run_id"] is None
    labels.delete(engine.database, same)
    runs.run()
    button(runs, "queue_1").click().run()
    assert not runs.error
    (again,) = set(find_runs(engine.database)["run_id"]) - before - {new}
    row = run_row(engine.database, again)
    assert (row["parent_run_id"], row["parent_step"]) == (parent, 4)
    assert row["config"]["optim"]["learning_rate"] == 0.001
    wait_for(lambda: run_row(engine.database, again)["status"] == "finished")


def test_a_run_leads_to_the_pages_that_look_inside_it(runs: AppTest, engine: Engine) -> None:
    run_id = keep(engine, "without a state")
    at(runs, run=run_id)
    assert "Open in Attention" not in [link.proto.label for link in runs.get("page_link")]
    run_id = trained(engine)
    at(runs, run=run_id)
    links = {link.proto.label: link.proto.query_string for link in runs.get("page_link")}
    assert {"Attention", "Probing", "Open in Attention", "Open in Probing"} <= links.keys()
    assert run_id in links["Attention"]
    assert "step=4" in links["Open in Probing"]


def test_a_comparison_of_one_run_says_what_it_takes(runs: AppTest, engine: Engine) -> None:
    at(runs, compare=keep(engine, "one"))
    assert "takes 2 to 20 runs" in runs.info[0].value


def test_edits_in_the_table_are_kept_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.ui import runs_list

    run_id = keep(engine, "one")
    state = {"table": {"edited_rows": {0: {"Run": "renamed", "Tags": ["a"], "Note": "a note"}}}}
    monkeypatch.setattr(runs_list.st, "session_state", state)
    runs_list._keep_edits("table", [run_id])
    row = run_row(engine.database, run_id)
    assert (row["name"], row["tags"], row["note"]) == ("renamed", ["a"], "a note")


def test_the_list_has_pages_of_a_hundred(runs: AppTest, engine: Engine) -> None:
    with engine.database.writing() as cursor:
        cursor.execute(
            "INSERT INTO runs (run_id, name, kind, status, created_at) "
            "SELECT 'r' || i, 'run ' || i, 'pretrain', 'finished', now() + to_seconds(i) FROM range(250) t(i)"
        )
    runs.run()
    assert listed(runs)[0] == "run 249"
    assert "1 to 100 of 250 runs" in words_on(runs)
    button(runs, "runs_after").click().run()
    button(runs, "runs_after").click().run()
    assert not runs.exception
    assert listed(runs)[-1] == "run 0"
    assert button(runs, "runs_after").disabled


def test_a_live_run_of_the_list_can_be_paused_and_stopped(runs: AppTest, engine: Engine) -> None:
    from tests.app.test_pages import tiny

    run_id = engine.submit(tiny(max_steps=100_000), name="long")
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "running")
    at(runs, marked=run_id)
    button(runs, f"marked_pause_{run_id}").click().run()
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "paused")
    at(runs, run=run_id)
    button(runs, f"head_stop_{run_id}").click().run()
    wait_for(lambda: run_row(engine.database, run_id)["status"] == "stopped")
    assert not runs.exception


def test_an_exported_run_comes_back_from_its_file(runs: AppTest, engine: Engine) -> None:
    run_id = keep(engine, "one")
    archive = _archive(run_id, checkpoints=False)
    labels.delete(engine.database, run_id)
    labels.purge(engine.database, run_id)
    assert at(runs).info[0].value == "There are no runs yet."
    (taken,) = take("one.labrun", archive)
    assert taken.run_id == run_id
    assert listed(at(runs, marked=run_id)) == ["one"]


def test_a_table_of_another_program_becomes_a_run(runs: AppTest, engine: Engine) -> None:
    (taken,) = take("theirs.csv", b"step,val/loss,reward\n1,3.5,0.1\n2,3.0,0.2\n", "their run")
    at(runs, run=taken.run_id)
    assert "their run" in words_on(runs)
    assert "did not tell its settings" in words_on(runs)
    at(runs, compare=f"{taken.run_id},{keep(engine, 'ours')}")
    assert not runs.exception


def test_a_file_that_is_no_run_is_refused_in_a_sentence(engine: Engine) -> None:
    with pytest.raises(StoreError, match="neither a run archive"):
        take("picture.png", b"not a run")


def test_a_report_is_made_of_a_run(engine: Engine) -> None:
    run_id = keep(engine, "one / two")
    with engine.cursor() as cursor:
        assert "<svg" in report(cursor, run_id)
    assert file_name("one / two") == "one-two"
