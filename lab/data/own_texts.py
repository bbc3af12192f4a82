"""A person's own texts: checked when they are given, kept under a name with a card of what was counted.

outputs/.cache/corpora/<name>.txt    the text: UTF-8, plain line ends
outputs/.cache/corpora/<name>.json   its card
"""

import hashlib
import re
import unicodedata
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lab import paths
from lab.data.registry import Corpus, registered
from lab.errors import DataError, LabError
from lab.files import read_json, write_bytes, write_json


def own_folder() -> Path:
    """Where a person's own texts are kept."""
    return paths.cache() / "corpora"


def own_corpora() -> list[Corpus]:
    """The person's own texts, by name."""
    found = (_kept(path) for path in sorted(own_folder().glob("*.txt")))
    return [corpus for corpus in found if corpus is not None]


def add_corpus(name: str, content: bytes | Path, *, title: str | None = None) -> Corpus:
    """Keep a person's own text under a name. Adding the same text again changes nothing.

    Args:
        name: becomes lower case with hyphens; the name of an uploaded file will do ("My Diary.txt" -> my-diary).
        content: the file's bytes, or the path to it.

    Raises:
        DataError: it is not UTF-8 text, is empty, or the name is taken by another text.
    """
    raw = read_bytes(content) if isinstance(content, Path) else content
    short = corpus_name(name)
    text = decode_text(raw, title or name)
    if any(corpus.name == short for corpus in registered()):
        raise DataError(f"{short!r} is the name of a corpus of the lab: choose another name for this text.")
    path, clean = own_folder() / f"{short}.txt", text.encode("utf-8")
    if path.exists() and path.read_bytes() != clean:
        raise DataError(f"There is already another text named {short!r}: choose another name for this one.")
    if not path.exists():
        write_bytes(path, clean)
    corpus = replace(corpus_from_path(path, count_gpt2=True), name=short, title=title or name)
    _write_card(corpus)
    return corpus


def corpus_name(name: str) -> str:
    """A short name made of a title or file name.

    Raises:
        DataError: nothing of it can be used.
    """
    plain = unicodedata.normalize("NFKD", Path(name).stem if name.lower().endswith((".txt", ".md")) else name)
    short = re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower()).strip("-")[:60].strip("-")
    if not short:
        raise DataError(f"The name {name!r} has no plain letter or digit: give the corpus a name like my-text.")
    return short


def decode_text(raw: bytes, name: str) -> str:
    """A text file's content: UTF-8, a byte-order mark dropped, every line end a plain newline.

    Raises:
        DataError: it is empty, is not UTF-8, or is not text.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name} is stored as UTF-16: save it as UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{raw[error.start]:02x} in line {line:,} does not belong; "
            "save it as UTF-8 (for example: iconv -f latin1 -t utf-8 OLD > NEW)."
        ) from error
    if "\0" in text:
        raise DataError(f"{name} contains zero bytes, so it is not a text file: give plain UTF-8 text.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{name} is empty: there is nothing to learn from.")
    return text


def read_bytes(path: Path) -> bytes:
    """A file's content, or a DataError that says why not."""
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def corpus_from_path(path: Path, *, count_gpt2: bool = False) -> Corpus:
    """A text file as a corpus whose name is its path.

    Raises:
        DataError: it cannot be read or is not usable text.
    """
    raw = read_bytes(path)
    text = decode_text(raw, path.name)
    return Corpus(
        name=str(path),
        title=path.name,
        source="Your own text.",
        licence="Yours to know.",
        kind="own",
        path=path,
        url=None,
        bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        characters=len(text),
        tokens={"char": len(text), "gpt2": _count_gpt2(text) if count_gpt2 else None},
        description="",
    )


def _count_gpt2(text: str) -> int:
    from lab.data.token_files import token_file  # here: the vocabulary is of no use to who only lists corpora
    from lab.data.tokenizers import GPT2Tokenizer

    return len(token_file(text, GPT2Tokenizer()))  # kept, so a run that starts with it finds it done


def _write_card(corpus: Corpus) -> None:
    """Keep what was counted beside the text, so that listing corpora reads no text."""
    card: dict[str, Any] = {key: value for key, value in asdict(corpus).items() if key != "path"}
    write_json(corpus.path.with_suffix(".json"), card)


def _kept(path: Path) -> Corpus | None:
    """The person's corpus in this file; counted anew when its card is missing or older than the text.

    None when the file was put there by hand and is not text: it must not hide the others.
    """
    card = path.with_suffix(".json")
    try:
        if card.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            return Corpus(**read_json(card), path=path)
    except (FileNotFoundError, LabError, TypeError):
        pass  # no card, or not one of ours: count again
    try:
        corpus = replace(corpus_from_path(path), name=path.stem, title=path.stem)
    except DataError:
        return None
    _write_card(corpus)
    return corpus
