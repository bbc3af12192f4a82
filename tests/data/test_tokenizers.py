import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab import paths
from lab.data import tokenizers
from lab.data.tokenizers import CharTokenizer, GPT2Tokenizer, Tokenizer, identity, load_tokenizer, tokenizer_for
from lab.errors import DataError
from tests.data.gpt2_reference import reference_tokenizer

GPT2 = GPT2Tokenizer()
ALL_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # any Unicode text; lone surrogates are not text

TRICKY = [
    "Hello world",
    "I'll can't we've  it's O'Neill 'S",
    "  two  spaces,\ttabs\n\n\nand lines   \n",
    "trailing blanks   ",
    "1234567890 ½ ² ٣",
    "naïve café — “quotes” … 日本語 🙂👩‍👩‍👧 e\u0301",
    "\x00\x01\x7f\u200b\ufeff",
    "one<|endoftext|>two",
    "",
]


def test_gpt2_encodes_hello_world_as_gpt2_does() -> None:
    assert GPT2.encode("Hello world") == [15496, 995]
    assert GPT2.tokenize("Hello world\n") == ["Hello", "␣world", "\\n"]


@pytest.mark.parametrize("text", TRICKY)
def test_gpt2_agrees_with_transformers_on_tricky_text(text: str) -> None:
    assert GPT2.encode(text) == reference_tokenizer().encode(text)


@given(ALL_TEXT)
def test_gpt2_agrees_with_transformers_on_any_text(text: str) -> None:
    assert GPT2.encode(text) == reference_tokenizer().encode(text)


def test_gpt2_agrees_with_transformers_on_whole_stories() -> None:
    for name in ("alice", "tiny"):
        text = (paths.bundled_corpora() / f"{name}.txt").read_text(encoding="utf-8")
        assert GPT2.encode(text) == reference_tokenizer().encode(text)


def test_gpt2_gives_the_published_token_counts(test_data: Path) -> None:
    for name, n_tokens in (("tinyshakespeare", 338_025), ("the-verdict", 5_145)):
        text = (test_data / f"{name}.txt").read_text(encoding="utf-8")
        assert len(GPT2.encode(text)) == n_tokens


def test_gpt2_pattern_is_tiktokens_own() -> None:
    from tiktoken_ext.openai_public import r50k_pat_str

    assert r50k_pat_str == tokenizers.GPT2_PATTERN


def test_gpt2_end_of_text_written_out_is_the_end_of_text_token() -> None:
    assert GPT2.end_of_text == 50_256
    assert GPT2.encode("<|endoftext|>") == [50_256]
    assert GPT2.decode([50_256]) == "<|endoftext|>"
    assert GPT2.vocab_size == 50_257


@given(ALL_TEXT)
@example("\r\n\x00🙂")
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert GPT2.decode(GPT2.encode(text)) == text
    if text:
        characters = tokenizer_for("char", text)
        assert characters.decode(characters.encode(text)) == text


@given(ALL_TEXT)
def test_arrays_and_lists_of_ids_are_the_same(text: str) -> None:
    assert GPT2.encode_array(text).tolist() == GPT2.encode(text)
    if text:
        characters = tokenizer_for("char", text)
        assert characters.encode_array(text).tolist() == characters.encode(text)


@given(ALL_TEXT)
def test_bytes_of_the_tokens_add_up_to_the_bytes_of_the_text(text: str) -> None:
    n_bytes = len(text.encode("utf-8"))
    assert GPT2.count_bytes(GPT2.encode_array(text)) == n_bytes
    assert GPT2.count_bytes(GPT2.encode(text)) == n_bytes
    if text:
        characters = tokenizer_for("char", text)
        assert characters.count_bytes(characters.encode_array(text)) == n_bytes


def test_bytes_are_counted_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_BLOCK", 3)
    assert CharTokenizer("aé").count_bytes(np.array([0, 1, 1, 0, 1, 1, 1])) == 2 + 5 * 2


@given(ALL_TEXT)
def test_one_label_per_token_without_bare_blanks(text: str) -> None:
    labels = GPT2.tokenize(text)
    assert len(labels) == len(GPT2.encode(text))
    assert all(label and not any(c.isspace() for c in label) for label in labels)


def test_labels_of_cut_characters_show_their_bytes() -> None:
    assert GPT2.tokenize("🦜") == ["\\xf0\\x9f", "\\xa6", "\\x9c"]
    assert CharTokenizer("\n \ta").tokenize("a \n\t") == ["a", "␣", "\\n", "\\t"]


@given(ALL_TEXT)
def test_streaming_gives_the_same_text_and_never_half_a_character(text: str) -> None:
    stream = GPT2.decode_stream()
    pieces = [stream.add(token_id) for token_id in GPT2.encode(text)]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
    assert stream.finish() == ""


def test_streaming_waits_for_the_rest_of_a_character() -> None:
    stream = GPT2.decode_stream()
    first, second, third = GPT2.encode("🦜")
    assert [stream.add(first), stream.add(second), stream.add(third)] == ["", "", "🦜"]


@given(st.lists(st.integers(0, 50_256)))
def test_streaming_any_ids_gives_what_decode_gives(ids: list[int]) -> None:
    stream = GPT2.decode_stream()
    assert "".join([*map(stream.add, ids), stream.finish()]) == GPT2.decode(ids)


def test_char_vocabulary_is_all_characters_of_the_text_in_order() -> None:
    tokenizer = tokenizer_for("char", "hello\n")
    assert tokenizer.to_json() == {"name": "char", "characters": "\nehlo"}
    assert tokenizer.encode("hello") == [2, 1, 3, 3, 4]
    assert tokenizer.vocab_size == 5
    assert tokenizer.end_of_text is None


@pytest.mark.parametrize("encode", ["encode", "encode_array"])
def test_char_errors_name_the_unknown_characters(encode: str) -> None:
    with pytest.raises(DataError, match=r"2 characters that this vocabulary of 3 .* know: 'x', '☃'"):
        getattr(CharTokenizer("abc"), encode)("abcx☃x")


@pytest.mark.parametrize("characters", ["", "aba"])
def test_char_vocabulary_must_be_a_set(characters: str) -> None:
    with pytest.raises(DataError, match="each of them once"):
        CharTokenizer(characters)


@pytest.mark.parametrize("tokenizer", [GPT2, CharTokenizer("ab")])
def test_ids_of_another_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for token_id in (-1, tokenizer.vocab_size, 2**40):
        with pytest.raises(DataError, match=f"Token {token_id} is not in the {tokenizer.name} vocabulary"):
            tokenizer.decode([token_id])


@pytest.mark.parametrize("tokenizer", [GPT2, CharTokenizer('aé"\n☃')])
def test_a_stored_tokenizer_comes_back_the_same(tokenizer: Tokenizer) -> None:
    again = load_tokenizer(json.loads(json.dumps(tokenizer.to_json())))
    assert type(again) is type(tokenizer)
    assert identity(again) == identity(tokenizer)


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ({}, "kind None"),
        ({"name": "sentencepiece"}, "kind 'sentencepiece'"),
        ({"name": "gpt2", "sha256": "0"}, "another GPT-2 vocabulary"),
        ({"name": "char"}, "no list of characters"),
    ],
)
def test_a_stored_tokenizer_that_cannot_be_read_is_told(stored: dict[str, str], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        load_tokenizer(stored)


def test_unknown_tokenizer_name_is_told() -> None:
    with pytest.raises(DataError, match="no tokenizer 'words'"):
        tokenizer_for("words", "text")


def test_a_damaged_vocabulary_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "gpt2.tiktoken"
    damaged.write_bytes(tokenizers.GPT2_FILE.read_bytes()[:-1])
    tokenizers._gpt2.cache_clear()
    monkeypatch.setattr(tokenizers, "GPT2_FILE", damaged)
    with pytest.raises(DataError, match="damaged"):
        GPT2.encode("Hello")
    damaged.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        GPT2.encode("Hello")


def test_endless_blanks_are_told() -> None:
    with pytest.raises(DataError, match="blanks in a row"):
        GPT2.encode(" " * 1_000_000 + "x")


def test_tokenizing_shakespeare_takes_less_than_a_second() -> None:
    text = (paths.bundled_corpora() / "shakespeare.txt").read_text(encoding="utf-8")
    GPT2.encode("warm up")
    started = time.process_time()
    assert len(GPT2.encode_array(text)) == 338_025
    assert time.process_time() - started < 1.0
