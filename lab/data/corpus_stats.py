"""What is in a text: how long, how varied, and how well plain counting would predict it."""

import re
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.data.registry import Corpus
from lab.data.token_files import token_file
from lab.data.tokenizers import Tokenizer, tokenizer_for, visible


def corpus_stats_of(corpus: Corpus, text: str) -> dict[str, Any]:
    """Figures for reading, one level deep but for the two tokenizers.

    Returns:
        name, bytes, characters, words, lines, distinct_characters, distinct_words,
        common_characters, common_words: the ten most frequent ones with their counts,
        tokenizers: for "char" and "gpt2" the number of tokens, how many different ones, the vocabulary,
            bytes_per_token, and unigram_nats: the loss of a guesser that knows only how frequent each token is.
            A model that has learned anything about order is below it.
    """
    words = Counter(re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower()))
    n_bytes = len(text.encode("utf-8"))
    return {
        "name": corpus.name,
        "bytes": n_bytes,
        "characters": len(text),
        "words": words.total(),
        "lines": text.count("\n") + (not text.endswith("\n")),
        "distinct_characters": len(set(text)),
        "distinct_words": len(words),
        "common_characters": [[visible(character), count] for character, count in Counter(text).most_common(10)],
        "common_words": [[word, count] for word, count in words.most_common(10)],
        "tokenizers": {name: _tokenized(text, tokenizer_for(name, text), n_bytes) for name in ("char", "gpt2")},
    }


def _tokenized(text: str, tokenizer: Tokenizer, n_bytes: int) -> dict[str, Any]:
    tokens = token_file(text, tokenizer)
    counts = np.bincount(tokens, minlength=tokenizer.vocab_size)
    return {
        "tokens": len(tokens),
        "distinct_tokens": int(np.count_nonzero(counts)),
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": n_bytes / len(tokens),
        "unigram_nats": entropy_nats(counts),
    }


def entropy_nats(counts: NDArray[np.int64]) -> float:
    """Mean of -ln p over the counted things, each predicted by its own frequency p."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
