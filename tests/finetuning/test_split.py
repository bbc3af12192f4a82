"""No row of the validation set says what a training row says."""

import json
import runpy
from pathlib import Path

import pytest

from lab import paths
from lab.errors import DataError
from lab.finetuning.formats import Conversation, Turn, recognise
from lab.finetuning.rows import BUNDLED, add_dataset, dataset_names, read_dataset
from lab.finetuning.split import groups_of, split


def rows(*pairs: tuple[str, str]) -> list[Conversation]:
    return [
        Conversation((Turn("user", question), Turn("assistant", answer)), number)
        for number, (question, answer) in enumerate(pairs, start=1)
    ]


def test_equal_questions_are_one_group_whatever_their_blanks_and_capitals() -> None:
    found = groups_of(rows(("Why  not?", "a"), ("How?", "b"), ("why not?", "c")))
    assert found == [[0, 2], [1]]


def test_equal_long_answers_are_one_group_and_equal_short_ones_are_not() -> None:
    long = "This is a rather long answer."
    assert groups_of(rows(("a", long), ("b", long), ("c", "yes"), ("d", "yes"))) == [[0, 1], [2], [3]]


@pytest.mark.parametrize("dataset", [one.name for one in BUNDLED])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_question_and_no_long_answer_stands_on_both_sides(dataset: str, seed: int) -> None:
    found = recognise(read_dataset(dataset)).conversations
    train, val = split(found, 0.1, seed)
    assert sorted(train + val) == list(range(len(found)))
    assert 0.05 * len(found) <= len(val) <= 0.1 * len(found)

    def said(places: list[int]) -> set[str]:
        texts = [found[place].question[-1].content for place in places]
        if dataset != "curious":  # there an answer is a part of a conversation
            texts += [answer for place in places for answer in found[place].answers if len(answer.split()) >= 5]
        return set(texts)

    assert not said(train) & said(val)


def test_the_same_seed_makes_the_same_split_and_another_another() -> None:
    found = recognise(read_dataset("pirate")).conversations
    assert split(found, 0.1, 1) == split(found, 0.1, 1) != split(found, 0.1, 2)


def test_rows_that_all_say_the_same_cannot_be_split() -> None:
    with pytest.raises(DataError, match="All rows ask the same or answer the same"):
        split(rows(("Why?", "a"), ("why?", "b")), 0.5, 0)


def test_the_bundled_sets_are_what_their_script_makes() -> None:
    folder = paths.bundled_corpora() / "instructions"
    made = runpy.run_path(str(folder / "make.py"))["rows"]()
    for one in BUNDLED:
        stored = [json.loads(line) for line in one.path.read_text(encoding="utf-8").splitlines()]
        assert made[one.name] == stored


def test_an_upload_is_kept_under_its_name_and_another_of_that_name_is_refused(lab_home: Path) -> None:
    content = b'{"prompt": "a", "completion": "b"}\n'
    assert add_dataset("My rows.jsonl", content) == "My-rows.jsonl" == add_dataset("My rows.jsonl", content)
    assert "My-rows.jsonl" in dataset_names()
    assert read_dataset("My-rows.jsonl")[0].values == {"prompt": "a", "completion": "b"}
    with pytest.raises(DataError, match="already another data set named"):
        add_dataset("My rows.jsonl", content * 2)
