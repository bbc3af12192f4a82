import json
import os
from pathlib import Path

import numpy as np
import pytest

from lab.data import token_files
from lab.data.token_files import token_file, token_path
from lab.data.tokenizers import CharTokenizer, GPT2Tokenizer
from lab.errors import DataError, LabError

GPT2 = GPT2Tokenizer()
TEXT = "It is only far away, said the frog. " * 40


class Counting(CharTokenizer):
    """A character tokenizer that counts how often it is asked."""

    calls = 0

    def encode_array(self, text: str) -> np.ndarray:
        self.calls += 1
        return super().encode_array(text)


@pytest.fixture
def tokenizer(lab_home: Path) -> Counting:
    return Counting("".join(sorted(set(TEXT))))


def test_token_ids_are_flat_two_byte_numbers_on_disk(lab_home: Path) -> None:
    ids = token_file(TEXT, GPT2)
    assert ids.dtype == np.uint16
    assert ids.tolist() == GPT2.encode(TEXT)
    path = token_path(TEXT, GPT2)
    assert path.is_relative_to(lab_home / "outputs" / ".cache" / "tokens")
    assert np.fromfile(path, dtype="<u2").tolist() == GPT2.encode(TEXT)


def test_large_vocabularies_take_four_bytes(lab_home: Path) -> None:
    large = CharTokenizer("".join(map(chr, [*range(0xD800), *range(0xE000, 0x13000)])))
    assert large.vocab_size > 65_536
    ids = token_file("a\U00012fff", large)
    assert ids.dtype == np.uint32
    assert large.decode(ids.tolist()) == "a\U00012fff"


def test_ids_cannot_be_changed_by_a_reader(tokenizer: Counting) -> None:
    with pytest.raises(ValueError):
        token_file(TEXT, tokenizer)[0] = 1


def test_a_text_is_tokenized_once(tokenizer: Counting) -> None:
    assert token_file(TEXT, tokenizer).tolist() == token_file(TEXT, tokenizer).tolist()
    assert tokenizer.calls == 1


def test_the_key_changes_with_text_and_tokenizer() -> None:
    abc, abcd = CharTokenizer("abc"), CharTokenizer("abcd")
    paths = [
        token_path(*key) for key in (("a", abc), ("b", abc), ("a", abcd), ("a", CharTokenizer("acb")), ("a", GPT2))
    ]
    assert len(set(paths)) == len(paths)
    assert token_path("a", CharTokenizer("abc")) == paths[0]


@pytest.mark.parametrize("damage", ["truncated", "longer", "one bit", "no card", "card is not json", "card is empty"])
def test_a_damaged_token_file_is_made_again(tokenizer: Counting, damage: str) -> None:
    expected = token_file(TEXT, tokenizer).tolist()
    path = token_path(TEXT, tokenizer)
    content, card = path.read_bytes(), path.with_suffix(".json")
    match damage:
        case "truncated":
            path.write_bytes(content[:-2])
        case "longer":
            path.write_bytes(content + b"\0\0")
        case "one bit":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "no card":
            card.unlink()
        case "card is not json":
            card.write_text("{")
        case "card is empty":
            card.write_text("[]")
    assert token_file(TEXT, tokenizer).tolist() == expected
    assert tokenizer.calls == 2
    assert token_file(TEXT, tokenizer).tolist() == expected
    assert tokenizer.calls == 2


def test_a_crash_between_write_and_rename_leaves_nothing_that_counts(
    tokenizer: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            token_file(TEXT, tokenizer)
    assert not token_path(TEXT, tokenizer).exists()
    assert len(token_file(TEXT, tokenizer)) == len(TEXT)


def test_a_crash_between_ids_and_card_is_repaired(tokenizer: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(token_files, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            token_file(TEXT, tokenizer)
    path = token_path(TEXT, tokenizer)
    path.write_bytes(b"half")
    assert len(token_file(TEXT, tokenizer)) == len(TEXT)
    assert json.loads(path.with_suffix(".json").read_text())["tokens"] == len(TEXT)


def crash(*args: object) -> None:
    raise KeyboardInterrupt


def test_an_open_file_stays_readable_when_it_is_made_again(tokenizer: Counting) -> None:
    opened = token_file(TEXT, tokenizer)
    token_path(TEXT, tokenizer).with_suffix(".json").unlink()
    again = token_file(TEXT, tokenizer)
    assert tokenizer.calls == 2
    assert opened.tolist() == again.tolist()


def test_an_empty_text_is_told(tokenizer: Counting) -> None:
    with pytest.raises(DataError, match="nothing to tokenize"):
        token_file("", tokenizer)


def test_a_folder_that_cannot_be_written_is_told(lab_home: Path) -> None:
    (lab_home / "outputs").write_text("a file where a folder should be")
    with pytest.raises(LabError, match="could not be written"):
        token_file(TEXT, GPT2)
