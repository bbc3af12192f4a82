from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.config import PRESETS, PretrainConfig, changed
from lab.data.corpora import find_corpus, read_text
from lab.data.text_data import opening_words, prepare_text
from lab.data.tokenizers import CharTokenizer
from lab.errors import DataError


def config(**changes: Any) -> PretrainConfig:
    return changed(PRESETS["pocket"], corpus="tiny", **changes)


@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_the_parts_are_the_whole_text_in_order(tokenizer: str, lab_home: Path) -> None:
    data = prepare_text(config(tokenizer=tokenizer))
    text = read_text(find_corpus("tiny"))
    assert data.tokenizer.name == tokenizer
    assert data.tokenizer.decode([*data.train.tolist(), *data.val.tolist()]) == text
    assert data.train_bytes + data.val_bytes == len(text.encode("utf-8"))
    assert data.val_bytes == len(data.tokenizer.decode(data.val.tolist()).encode("utf-8"))
    assert data.val_bytes_per_token == data.val_bytes / len(data.val)
    assert len(data.val) == pytest.approx(len(data.train) / 9, rel=0.01)


def test_tokens_stay_on_disk_until_they_are_read(lab_home: Path) -> None:
    data = prepare_text(config())
    assert isinstance(data.train, np.memmap)
    assert isinstance(data.val, np.memmap)


@pytest.mark.parametrize("name", ["shakespeare", "alice", "tiny"])
@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_every_bundled_corpus_is_long_enough_for_a_context_of_64(name: str, tokenizer: str, lab_home: Path) -> None:
    prepare_text(config(tokenizer=tokenizer, context_length=64) if name == "tiny" else changed(config(), corpus=name))


def test_a_run_that_goes_on_uses_its_own_tokenizer(lab_home: Path) -> None:
    text = read_text(find_corpus("tiny"))
    stored = CharTokenizer("".join(sorted(set(text) | {"☃"})))
    assert prepare_text(config(), stored).tokenizer is stored
    with pytest.raises(DataError, match="does not know"):
        prepare_text(config(), CharTokenizer("abc"))


def test_a_corpus_too_short_for_the_context_is_told_by_name(lab_home: Path) -> None:
    with pytest.raises(DataError, match=r"Seven tiny stories is too short: .* 7,011 tokens.* 1,024 \+ 1 = 1,025"):
        prepare_text(config(context_length=1_024))


def test_a_text_of_one_character_is_told(lab_home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 5_000)
    with pytest.raises(DataError, match="repeats a single character, 'a'"):
        prepare_text(changed(config(), corpus=str(tmp_path / "a.txt")))


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        ("?\n\nGREMIO:\nGood morrow, neighbour Baptista.", "GREMIO:\nGood morrow, neighbour"),
        ("lf a word then more words", "a word then more"),
        ("word", "word"),
        ("end.\n", "end."),
        ("\n\n\n", "\n"),
    ],
)
def test_samples_start_with_whole_words(text: str, opening: str) -> None:
    assert opening_words(text) == opening
