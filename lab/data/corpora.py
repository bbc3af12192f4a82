"""Finding, reading and fetching the texts to learn from."""

import hashlib
from pathlib import Path
from typing import Any

from lab.data.corpus_stats import corpus_stats_of
from lab.data.own_texts import add_corpus, corpus_from_path, corpus_name, decode_text, own_corpora, read_bytes
from lab.data.registry import Corpus, registered
from lab.download import Progress, download
from lab.errors import DataError

__all__ = [
    "Corpus",
    "add_corpus",
    "corpus_name",
    "corpus_stats",
    "download_corpus",
    "find_corpus",
    "list_corpora",
    "read_text",
]


def list_corpora() -> list[Corpus]:
    """Every corpus with a name: bundled, downloadable, and the person's own."""
    return registered() + own_corpora()


def find_corpus(name_or_path: str) -> Corpus:
    """The corpus of this name, or the text file at this path.

    Raises:
        DataError: there is neither, or the file is not usable text.
    """
    known = {corpus.name: corpus for corpus in list_corpora()}
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return corpus_from_path(path.resolve())
    if path.is_dir():
        raise DataError(f"{name_or_path} is a folder: a corpus is one text file.")
    raise DataError(
        f"There is no corpus {name_or_path!r} and no file of that name: the corpora are {', '.join(known)}; "
        "`lab corpora add FILE` adds a text of yours."
    )


def read_text(corpus: Corpus) -> str:
    """The text of a corpus, with plain line ends.

    Raises:
        DataError: it is not downloaded yet, is damaged, or is not usable text.
    """
    if not corpus.is_here:
        if corpus.kind == "download":
            raise DataError(f"{corpus.title} is not on this machine yet: run `lab corpora download {corpus.name}`.")
        raise DataError(f"The file of {corpus.title}, {corpus.path}, is gone: put it back, or choose another corpus.")
    raw = read_bytes(corpus.path)
    if corpus.kind != "own" and hashlib.sha256(raw).hexdigest() != corpus.sha256:
        way = f"run `lab corpora download {corpus.name}`" if corpus.kind == "download" else "install the lab again"
        raise DataError(f"{corpus.path} is not the text it should be (its checksum differs): {way}.")
    return decode_text(raw, corpus.title)


def download_corpus(name: str, progress: Progress | None = None) -> Corpus:
    """Fetch a corpus that does not ship with the lab; does nothing for one that is here.

    Raises:
        DataError: there is no such corpus.
        DownloadError: it could not be fetched.
    """
    corpus = find_corpus(name)
    if corpus.kind == "download" and corpus.url:
        download(corpus.url, corpus.path, corpus.sha256, size=corpus.bytes, progress=progress)
    return corpus


def corpus_stats(corpus: Corpus) -> dict[str, Any]:
    """Figures about a corpus that tell what a model will find in it; see `corpus_stats_of`."""
    return corpus_stats_of(corpus, read_text(corpus))
