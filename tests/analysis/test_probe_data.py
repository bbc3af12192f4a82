"""Examples for probes: the labels are those of the text, whatever the tokenizer."""

import numpy as np
import pytest
import torch

from lab.analysis.probe_data import (
    CHARACTER_CLASSES,
    activations,
    from_csv,
    next_character_class,
    position_in_text,
    sentiment_words,
    windows_of,
)
from lab.analysis.probes import probe_rows
from lab.analysis.recording import record_rows
from lab.data.tokenizers import CharTokenizer, GPT2Tokenizer
from lab.errors import DataError
from lab.models.families import anatomy
from tests.tiny_models import tiny_gpt

LETTERS = CharTokenizer("".join(sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!\n0123456789é"))))


def words(task, tokenizer) -> list[tuple[str, str]]:  # type: ignore[no-untyped-def]
    """The text up to each example, and the name of its label."""
    return [
        (tokenizer.decode(list(task.texts[t][: p + 1])), task.names[label])
        for t, p, label in zip(task.text.tolist(), task.position.tolist(), task.labels.tolist(), strict=True)
    ]


def test_next_character_classes_by_hand() -> None:
    task = next_character_class(LETTERS, [LETTERS.encode("aB 7.\n")])
    assert words(task, LETTERS) == [
        ("a", "upper case"),
        ("aB", "space"),
        ("aB ", "digit"),
        ("aB 7", "other"),
        ("aB 7.", "newline"),
    ]


def test_with_word_pieces_the_next_character_is_the_first_of_the_next_piece() -> None:
    tokenizer = GPT2Tokenizer()
    task = next_character_class(tokenizer, [tokenizer.encode("Hello world!")])
    assert words(task, tokenizer) == [("Hello", "space"), ("Hello world", "other")]


def test_a_piece_that_ends_within_a_character_is_no_example() -> None:
    """GPT-2 spells ☃ in two pieces; after the first one no next character is known yet."""
    tokenizer = GPT2Tokenizer()
    ids = tokenizer.encode("a☃a")
    task = next_character_class(tokenizer, [ids])
    assert len(ids) > 3
    assert [task.names[label] for label in task.labels] == ["other", "lower case"]


def test_positions_are_cut_into_equal_parts() -> None:
    task = position_in_text([[1] * 8, [2] * 4], n_parts=4)
    assert task.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3]
    assert task.groups.tolist() == [0] * 8 + [1] * 4


def test_sentences_are_labelled_at_their_end_and_grouped_by_word() -> None:
    task = sentiment_words(LETTERS)
    assert task.names == ("negative", "positive")
    assert torch.bincount(task.labels).tolist() == [100, 100]
    assert all(LETTERS.decode(list(ids)).endswith(".") for ids in task.texts)
    assert len(task.groups.unique()) == 40
    for group in task.groups.unique():
        assert len(task.labels[task.groups == group].unique()) == 1
    assert words(task, LETTERS)[0] == ("The day was bad and we went home.", "negative")


def test_activations_are_the_stream_at_each_example() -> None:
    parts = anatomy(tiny_gpt())
    task = position_in_text([[5, 6, 7, 8], [9, 10]], n_parts=2)
    features = activations(parts, task)
    assert features.shape == (4, 6, 32)
    torch.testing.assert_close(features[:, 4:], record_rows(parts, torch.tensor([[9, 10]]))[:, 0])


def test_the_embedding_of_a_model_with_learned_positions_tells_the_position_and_a_probe_finds_it() -> None:
    parts = anatomy(tiny_gpt())
    texts = windows_of(np.random.Generator(np.random.PCG64(1)).integers(3, 250, size=2_000), length=8, n_texts=100)
    task = position_in_text(texts)
    report = probe_rows(activations(parts, task), task.labels, tokens=task.tokens, groups=task.groups)
    assert report.rows[0].low > 0.8
    assert max(shuffled.value for shuffled in report.shuffled) < 0.4
    assert report.selectivity[0] > 0.4


def test_sampling_keeps_examples_and_their_labels_together() -> None:
    task = next_character_class(LETTERS, [LETTERS.encode("aB 7.\n" * 50)])
    some = task.sampled(40, seed=3)
    assert len(some.labels) == 40
    assert set(words(some, LETTERS)) <= set(words(task, LETTERS))
    assert torch.equal(some.tokens, task.sampled(40, seed=3).tokens)
    assert task.sampled(10_000) is task


def test_windows_of_a_corpus_do_not_overlap() -> None:
    windows = windows_of(np.arange(100), length=10, n_texts=10)
    assert sorted(token for window in windows for token in window) == list(range(100))
    with pytest.raises(DataError, match="100 tokens, too few for 11 pieces of 10"):
        windows_of(np.arange(100), length=10, n_texts=11)


def test_a_csv_file_becomes_examples_at_the_end_of_each_text() -> None:
    content = 'text,label\n"good, kind",up\nbad,down\ncafé,up\n'.encode("utf-8-sig")
    task = from_csv(LETTERS, content, context_length=32)
    assert words(task, LETTERS) == [("good, kind", "up"), ("bad", "down"), ("café", "up")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"sentence,label\na,b\n", "it has sentence, label"),
        (b"", "it has nothing"),
        ("text,label\né,b\n".encode("latin-1"), "not a CSV table in UTF-8"),
        (b"text,label\na,x\nb,x\n", "1 different values"),
        (b"text,label\na,x\n,y\n", "row 2 has 0 tokens"),
        (b"text,label\na,x\n" + b"a" * 40 + b",y\n", "row 2 has 40 tokens; this model reads 1 to 32"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        from_csv(LETTERS, content, context_length=32)


def test_every_character_has_a_class() -> None:
    assert len(CHARACTER_CLASSES) == 6
