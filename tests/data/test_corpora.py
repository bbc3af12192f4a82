import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import paths
from lab.data.corpora import (
    add_corpus,
    corpus_name,
    corpus_stats,
    download_corpus,
    find_corpus,
    list_corpora,
    read_text,
)
from lab.data.corpus_stats import entropy_nats
from lab.data.registry import registered
from lab.data.tokenizers import tokenizer_for
from lab.errors import DataError
from lab.files import sha256_of

BUNDLED = [corpus for corpus in registered() if corpus.kind == "bundled"]


@pytest.mark.parametrize("name", ["shakespeare", "alice", "tiny"])
def test_bundled_corpora_are_as_the_registry_says(name: str, lab_home: Path) -> None:
    corpus = find_corpus(name)
    text = read_text(corpus)
    assert sha256_of(corpus.path) == corpus.sha256
    assert corpus.path.stat().st_size == corpus.bytes
    assert len(text) == corpus.characters
    assert text.encode("utf-8") == corpus.path.read_bytes()
    assert corpus.tokens == {kind: len(tokenizer_for(kind, text).encode_array(text)) for kind in ("char", "gpt2")}


def test_every_bundled_file_has_its_line_in_the_readme() -> None:
    readme = (paths.bundled_corpora() / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in paths.bundled_corpora().glob("*.txt")} == {corpus.name for corpus in BUNDLED}
    for corpus in BUNDLED:
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| `{corpus.name}.txt`")]
        assert f"| {corpus.bytes:,} | {corpus.characters:,} | {corpus.tokens['gpt2']:,} |" in line
        assert corpus.sha256 in readme


def test_every_corpus_says_where_it_comes_from() -> None:
    for corpus in registered():
        assert corpus.source
        assert corpus.licence
        assert corpus.description


def test_shakespeare_is_the_file_of_the_recipes(test_data: Path, lab_home: Path) -> None:
    assert read_text(find_corpus("shakespeare")) == (test_data / "tinyshakespeare.txt").read_text(encoding="utf-8")


def test_the_registry_knows_the_verdict(test_data: Path, lab_home: Path) -> None:
    corpus, file = find_corpus("verdict"), test_data / "the-verdict.txt"
    text = file.read_text(encoding="utf-8")
    assert (corpus.bytes, corpus.sha256, corpus.characters) == (file.stat().st_size, sha256_of(file), len(text))
    assert corpus.tokens == {kind: len(tokenizer_for(kind, text).encode_array(text)) for kind in ("char", "gpt2")}


def test_a_text_that_is_not_downloaded_says_how(lab_home: Path) -> None:
    corpus = find_corpus("verdict")
    assert not corpus.is_here
    with pytest.raises(DataError, match="run `lab corpora download verdict`"):
        read_text(corpus)


def test_a_changed_file_is_refused(lab_home: Path) -> None:
    corpus = find_corpus("verdict")
    corpus.path.parent.mkdir(parents=True)
    corpus.path.write_text("I had always thought Jack Gisburn rather a cheap genius")
    with pytest.raises(DataError, match=r"not the text it should be .* download verdict"):
        read_text(corpus)


def test_downloading_a_bundled_corpus_does_nothing(lab_home: Path) -> None:
    assert download_corpus("tiny") == find_corpus("tiny")


def test_a_text_file_is_a_corpus_by_its_path(tmp_path: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "story.txt"
    file.write_text("Once upon a time, é.", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    corpus = find_corpus("story.txt")
    assert corpus.name == str(file)  # absolute: a run finds it again from any folder
    assert (corpus.kind, corpus.bytes, corpus.characters) == ("own", 21, 20)
    assert read_text(find_corpus(corpus.name)) == "Once upon a time, é."


def test_an_unknown_corpus_is_told_with_the_known_ones(lab_home: Path) -> None:
    with pytest.raises(DataError, match=r"no corpus 'shakespear' .* shakespeare, alice, tiny, verdict"):
        find_corpus("shakespear")


def test_a_folder_is_no_corpus(tmp_path: Path, lab_home: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        find_corpus(str(tmp_path))


def test_own_text_is_kept_under_a_short_name(lab_home: Path) -> None:
    corpus = add_corpus("My Diary.txt", b"Dear diary, \r\nit rained.\n")
    assert (corpus.name, corpus.title, corpus.kind) == ("my-diary", "My Diary.txt", "own")
    assert corpus.tokens == {"char": 24, "gpt2": 10}
    assert find_corpus("my-diary") == corpus
    assert read_text(corpus) == "Dear diary, \nit rained.\n"
    assert list_corpora()[-1] == corpus


def test_own_text_can_be_given_as_a_path(tmp_path: Path, lab_home: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    assert read_text(add_corpus("mine", tmp_path / "a.txt")) == "some text"
    with pytest.raises(DataError, match=r"gone\.txt cannot be read: No such file"):
        add_corpus("gone", tmp_path / "gone.txt")


def test_adding_the_same_text_again_changes_nothing(lab_home: Path) -> None:
    assert add_corpus("mine", b"text") == add_corpus("mine", b"text")
    with pytest.raises(DataError, match="already another text named 'mine'"):
        add_corpus("mine", b"other text")
    assert read_text(find_corpus("mine")) == "text"


def test_the_names_of_the_lab_stay_its_own(lab_home: Path) -> None:
    with pytest.raises(DataError, match="'shakespeare' is the name of a corpus of the lab"):
        add_corpus("Shakespeare.txt", b"To be")


@pytest.mark.parametrize(
    ("given", "short"),
    [("My Diary.txt", "my-diary"), ("Émile.MD", "emile"), ("../../etc/passwd", "etc-passwd"), ("a" * 99, "a" * 60)],
)
def test_names_become_short_and_harmless(given: str, short: str) -> None:
    assert corpus_name(given) == short


def test_a_name_of_which_nothing_is_left_is_told() -> None:
    with pytest.raises(DataError, match="no plain letter or digit"):
        corpus_name("日本.txt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "mine is empty"),
        (b" \r\n\t", "mine is empty"),
        (b"\xef\xbb\xbf", "mine is empty"),
        ("naïve\ncafé".encode("latin-1"), r"mine is not UTF-8 text: byte 0xef in line 1 .* iconv"),
        (b"one\ntwo\n\xff", "byte 0xff in line 3"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"PK\x00\x01", "not a text file"),
    ],
)
def test_a_file_that_is_not_text_is_told_in_one_sentence(content: bytes, sentence: str, lab_home: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        add_corpus("mine", content)
    assert [corpus.kind for corpus in list_corpora()].count("own") == 0


def test_line_ends_become_plain_and_the_byte_order_mark_goes(lab_home: Path) -> None:
    assert read_text(add_corpus("mine", b"\xef\xbb\xbfone\r\ntwo\rthree\n")) == "one\ntwo\nthree\n"


@pytest.mark.parametrize("damage", ["missing", "not json", "of another kind"])
def test_a_lost_card_is_made_again(damage: str, lab_home: Path) -> None:
    corpus = add_corpus("mine", b"text")
    card = corpus.path.with_suffix(".json")
    match damage:
        case "missing":
            card.unlink()
        case "not json":
            card.write_text("{")
        case "of another kind":
            card.write_text('{"name": "mine"}')
    again = find_corpus("mine")
    assert (again.sha256, again.characters, again.bytes) == (corpus.sha256, 4, 4)
    assert json.loads(card.read_text())["characters"] == 4


def test_a_text_edited_by_hand_is_counted_again(lab_home: Path) -> None:
    corpus = add_corpus("mine", b"text")
    corpus.path.write_text("longer text")
    later = corpus.path.with_suffix(".json").stat().st_mtime_ns + 1_000_000_000
    os.utime(corpus.path, ns=(later, later))
    assert find_corpus("mine").characters == 11


def test_a_file_that_is_no_text_does_not_hide_the_others(lab_home: Path) -> None:
    corpus = add_corpus("mine", b"text")
    corpus.path.with_name("broken.txt").write_bytes(b"\xff\xfe\xfd")
    assert [corpus.name for corpus in list_corpora() if corpus.kind == "own"] == ["mine"]


def test_figures_of_a_text_by_hand(lab_home: Path) -> None:
    stats = corpus_stats(add_corpus("mine", b"the cat\nthe hat"))
    assert (stats["characters"], stats["words"], stats["lines"]) == (15, 4, 2)
    assert (stats["distinct_characters"], stats["distinct_words"]) == (7, 3)
    assert stats["common_words"][0] == ["the", 2]
    assert ["␣", 2] in stats["common_characters"]
    assert stats["tokenizers"]["gpt2"]["tokens"] == 5  # the, ␣cat, \n, the, ␣hat
    assert stats["tokenizers"]["gpt2"]["bytes_per_token"] == 3.0


def test_guessing_shakespeare_by_letter_frequency_costs_331_nats(lab_home: Path) -> None:
    assert corpus_stats(find_corpus("shakespeare"))["tokenizers"]["char"]["unigram_nats"] == pytest.approx(
        3.313, abs=1e-3
    )


def test_entropy_of_equal_things_is_the_logarithm_of_their_number() -> None:
    import numpy as np

    assert entropy_nats(np.array([5, 5, 0, 5, 5])) == pytest.approx(math.log(4))
    assert entropy_nats(np.array([7])) == 0.0


def test_listing_and_reading_corpora_loads_neither_torch_nor_httpx(lab_home: Path) -> None:
    code = (
        "import sys; from lab.data.corpora import list_corpora, read_text;"
        "[read_text(c) for c in list_corpora() if c.is_here];"
        "assert not {'torch', 'httpx', 'tiktoken', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
