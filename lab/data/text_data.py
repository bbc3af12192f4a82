"""Everything a run needs of its text, from the config: read, tokenized, split and checked."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.config import PretrainConfig
from lab.data.corpora import Corpus, find_corpus, read_text
from lab.data.token_files import token_file
from lab.data.tokenizers import Tokenizer, tokenizer_for
from lab.data.windows import check_lengths, split
from lab.errors import DataError


@dataclass(frozen=True)
class TextData:
    """A corpus as tokens, in two parts that share none."""

    corpus: Corpus
    text_sha256: str
    """Of the whole text: tells whether a resumed run still reads the same one."""
    tokenizer: Tokenizer
    train: NDArray[np.integer]
    """Training tokens, mapped into memory: [token]."""
    val: NDArray[np.integer]
    """Validation tokens, mapped into memory: [token]."""
    train_bytes: int
    val_bytes: int
    opening: str
    """The first whole words of the validation text: what samples start from when no prompt is given."""

    @property
    def val_bytes_per_token(self) -> float:
        return self.val_bytes / len(self.val)


def prepare_text(config: PretrainConfig, tokenizer: Tokenizer | None = None) -> TextData:
    """Read, tokenize and split the run's corpus, and check it against the context length.

    Args:
        tokenizer: the one to use; None makes it from the config. A resumed or forked run gives its own.

    Raises:
        DataError: the corpus is not there or cannot be used, or a part of it is shorter than a window.
    """
    data, context_length = config.data, config.model.context_length
    corpus = find_corpus(data.corpus)
    text = read_text(corpus)
    if tokenizer is None:
        tokenizer = tokenizer_for(data.tokenizer, text)
    if tokenizer.vocab_size < 2:
        raise DataError(f"{corpus.title} repeats a single character, {text[0]!r}: there is nothing to learn from it.")
    tokens = token_file(text, tokenizer)
    train_places, val_places = split(len(tokens), data.val_fraction)
    check_lengths(
        len(train_places), len(val_places), context_length, val_fraction=data.val_fraction, corpus=corpus.title
    )
    train, val = tokens[train_places.start : train_places.stop], tokens[val_places.start : val_places.stop]
    return TextData(
        corpus=corpus,
        text_sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        tokenizer=tokenizer,
        train=train,
        val=val,
        train_bytes=tokenizer.count_bytes(train),
        val_bytes=tokenizer.count_bytes(val),
        opening=opening_words(tokenizer.decode(val[:400].tolist())),
    )


def opening_words(text: str, n: int = 4) -> str:
    """The first `n` whole words, with the blanks between them, of a text that may start in the middle of one.

    A cut by tokens falls anywhere; after the first end of line a fresh sentence is likelier.
    """
    rest = text.partition("\n")[2].strip() or text.strip().partition(" ")[2] or text
    words = re.match(rf"\s*\S+(?:\s+\S+){{0,{n - 1}}}", rest)
    return words.group().strip() if words else text[:1]
