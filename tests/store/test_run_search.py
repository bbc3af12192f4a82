"""Finding runs: words, filters, sorting, pages, and views that are kept."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.config import PRESETS, changed, to_json
from lab.errors import StoreError
from lab.store import Condition, Database, RunSearch, choices, find_runs
from lab.store.saved import (
    forget,
    remember_question,
    save_query,
    save_view,
    saved_queries,
    saved_views,
    sql_history,
)

RUNS = {
    # run: (name, status, tags, learning rate, corpus, losses)
    "a": ("first try", "finished", ["good"], 1e-3, "shakespeare", [3.0, 2.0, 2.5]),
    "b": ("Second try", "finished", ["good", "long"], 3e-3, "alice", [3.0, 2.4, 2.2]),
    "c": ("wide", "failed", [], 1e-2, "shakespeare", [3.0, 9.0, math.nan]),
    "d": ("waiting", "queued", None, 1e-3, "shakespeare", []),
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database.open(tmp_path_factory.mktemp("record") / "runs.duckdb") as database:
        for day, (run_id, (name, status, tags, rate, corpus, losses)) in enumerate(RUNS.items(), start=1):
            config = to_json(
                changed(PRESETS["pocket"], learning_rate=rate, corpus=corpus, tie_embeddings=run_id == "b")
            )
            row = {"run_id": run_id, "name": name, "tags": tags, "config": config, "kind": "pretrain"}
            database.add_run({**row, "created_at": f"2026-11-0{day} 10:00:00+00"})
            with database.writing() as cursor:
                rows = [(run_id, step, "val/loss", value) for step, value in enumerate(losses)]
                if rows:
                    cursor.append("metrics", ["run_id", "step", "name", "value"], rows)
            database.update_run(run_id, status=status)
        yield database


def _ids(record: Database, **search: object) -> str:
    return "".join(find_runs(record, RunSearch(**search))["run_id"])  # type: ignore[arg-type]


def test_without_a_search_every_run_newest_first(record: Database) -> None:
    assert _ids(record) == "dcba"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("try", "ba"), ("TRY second", "b"), ("wide", "c"), ("alice", "b"), ("good", "ba"), ("nothing", ""), ("%", "")],
)
def test_all_words_must_occur_somewhere_in_any_case(record: Database, text: str, expected: str) -> None:
    assert _ids(record, text=text) == expected


def test_filters_by_status_kind_and_tags(record: Database) -> None:
    assert _ids(record, status=("finished", "failed")) == "cba"
    assert _ids(record, kind=("finetune",)) == ""
    assert _ids(record, tags=("good",)) == "ba"
    assert _ids(record, tags=("good", "long")) == "b"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition("learning_rate", "=", 0.001), "da"),
        (Condition("learning_rate", "=", "1e-3"), "da"),
        (Condition("learning_rate", ">", 0.001), "cb"),
        (Condition("learning_rate", "!=", 0.001), "cb"),
        (Condition("corpus", "=", "alice"), "b"),
        (Condition("corpus", "contains", "SHAKE"), "dca"),
        (Condition("tie_embeddings", "=", True), "b"),
        (Condition("no_such_setting", "=", 1), ""),
    ],
)
def test_filters_by_any_setting(record: Database, condition: Condition, expected: str) -> None:
    assert _ids(record, conditions=(condition,)) == expected


def test_sorts_by_last_and_best_value_of_a_metric_with_what_is_none_at_the_end(record: Database) -> None:
    assert _ids(record, sort="val/loss", ascending=True)[:2] == "ba"
    assert _ids(record, sort="val/loss", ascending=False)[:2] == "ab", "a NaN is not the greatest loss"
    assert _ids(record, sort="val/loss", value="best", ascending=True) == "abcd"
    found = find_runs(record, RunSearch(sort="val/loss", value="best", ascending=True))
    assert list(found["val/loss"][:3]) == [2.0, 2.2, 3.0]


def test_sorts_by_column_and_by_setting(record: Database) -> None:
    assert _ids(record, sort="name", ascending=True)[0] == "b"
    assert _ids(record, sort="learning_rate", ascending=False)[:2] == "cb"


def test_pages_cut_the_list_and_tell_the_total(record: Database) -> None:
    pages = [find_runs(record, RunSearch(), limit=3, offset=offset) for offset in (0, 3)]
    assert ["".join(page["run_id"]) for page in pages] == ["dcb", "a"]
    assert [page.attrs["total"] for page in pages] == [4, 4]


def test_metrics_can_be_columns_of_their_own(record: Database) -> None:
    found = find_runs(record, RunSearch(metrics=("val/loss", "train/loss"), value="lowest"))
    assert dict(zip(found["run_id"], found["val/loss"], strict=True))["a"] == 2.0
    assert found["train/loss"].isna().all()


def test_the_sql_that_is_shown_yields_the_same_rows(record: Database) -> None:
    search = RunSearch(
        text="o'try t", status=("finished",), conditions=(Condition("corpus", "!=", "it's"),), sort="val/loss"
    )
    for found in (find_runs(record, search), find_runs(record, RunSearch(metrics=("val/loss",)), limit=2)):
        with record.cursor() as cursor:
            assert cursor.execute(found.attrs["sql"]).df().equals(found)


@pytest.mark.parametrize(
    "search",
    [
        RunSearch(sort="name; DROP TABLE runs"),
        RunSearch(place="elsewhere"),  # type: ignore[arg-type]
        RunSearch(sort="val/loss", value="value) --"),  # type: ignore[arg-type]
        RunSearch(conditions=(Condition("x') OR 1=1", "=", 1),)),
        RunSearch(conditions=(Condition("seed", "OR 1", 1),)),  # type: ignore[arg-type]
        RunSearch(conditions=(Condition("corpus", "<", "alice"),)),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(record: Database, search: RunSearch) -> None:
    with pytest.raises(StoreError):
        find_runs(record, search)


def test_a_metric_name_with_quotes_stays_a_name(record: Database) -> None:
    assert 'x/"; DROP' in find_runs(record, RunSearch(metrics=('x/"; DROP',))).columns


def test_choices_are_those_that_occur(record: Database) -> None:
    assert choices(record) == {
        "status": ["finished", "failed", "queued"],
        "kind": ["pretrain"],
        "tags": ["good", "long"],
        "metrics": ["val/loss"],
    }


def test_a_saved_view_comes_back_as_it_was(lab_home: Path, database: Database) -> None:
    view = RunSearch(text="x", tags=("a",), conditions=(Condition("seed", ">", 1),), sort="val/loss", value="best")
    save_view(database, " my view ", RunSearch())
    save_view(database, "my view", view)
    assert saved_views(database) == {"my view": view}
    forget(database, "view", "my view")
    assert saved_views(database) == {}


def test_a_view_of_a_newer_lab_is_one_sentence(database: Database) -> None:
    with pytest.raises(StoreError, match="colour"):
        RunSearch.from_json({"colour": "red"})


def test_queries_and_the_last_questions_are_kept(database: Database) -> None:
    save_query(database, "all", "FROM runs")
    assert saved_queries(database) == {"all": "FROM runs"}
    for number in range(505):
        remember_question(database, f"SELECT {number}", seconds=0.1, rows=1)
    history = sql_history(database, limit=1_000)
    assert len(history) == 500
    assert history["sql"][0] == "SELECT 504"
