"""Token ids of a corpus, computed once and kept in a flat file that is mapped into memory.

A mapped file is read page by page as windows are taken from it: a text of any size costs no memory, and ids of two
bytes each are smaller than most text. Two files a text: `<key>.bin`, nothing but ids, and `<key>.json`, which says
how many they are and their checksum. The second is written last: where it stands and agrees, the first is whole.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lab import paths
from lab.data.tokenizers import Tokenizer, identity
from lab.errors import DataError
from lab.files import sha256_of, write_atomically, write_json


def token_file(text: str, tokenizer: Tokenizer) -> NDArray[np.integer]:
    """The token ids of a text, read-only and mapped into memory: [token], uint16 (uint32 for large vocabularies).

    Encodes the text at first use, and again if the kept file is missing or damaged.

    Raises:
        DataError: the text is empty, or has characters that the tokenizer does not know.
        LabError: the cache folder cannot be written.
    """
    if not text:
        raise DataError("There is nothing to tokenize: the text is empty.")
    path = token_path(text, tokenizer)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    if not _is_whole(path, dtype):
        _write(path, tokenizer.encode_array(text).astype(dtype), tokenizer.name)
    return np.memmap(path, dtype=dtype, mode="r")


def token_path(text: str, tokenizer: Tokenizer) -> Path:
    """Where the ids are kept: named by what was encoded and by what encoded it."""
    text_hash = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return paths.cache() / "tokens" / f"{text_hash[:24]}-{tokenizer.name}-{identity(tokenizer)}.bin"


def _write(path: Path, ids: NDArray[np.integer], tokenizer_name: str) -> None:
    write_atomically(path, lambda temporary: ids.tofile(temporary))
    described = {
        "tokenizer": tokenizer_name,
        "tokens": len(ids),
        "dtype": ids.dtype.str,
        "sha256": hashlib.sha256(ids.data).hexdigest(),
    }
    write_json(path.with_suffix(".json"), described)


def _is_whole(path: Path, dtype: np.dtype[np.integer]) -> bool:
    """Whether the file is there and every byte as it was written (0.5 ms for a megabyte)."""
    try:
        described = json.loads(path.with_suffix(".json").read_bytes())
        return (
            described["dtype"] == dtype.str
            and described["tokens"] * dtype.itemsize == path.stat().st_size
            and described["sha256"] == sha256_of(path)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # missing, or not what we wrote: made again
