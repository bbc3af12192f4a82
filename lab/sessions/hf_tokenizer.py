"""A Hugging Face tokenizer with the lab's interface: bytes of each token, labels in which blanks can be seen."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.data.tokenizers import MadeOfBytes, visible
from lab.errors import ModelError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class HFTokenizer(MadeOfBytes):
    """Tokens as the model sees them: `encode` puts what the model expects at the start, such as `<bos>`.

    Such special tokens stand for no text: they have a label but no bytes.
    """

    def __init__(self, folder: Path):
        """
        Raises:
            ModelError: the folder has no tokenizer that can be read.
        """
        from transformers import AutoTokenizer

        try:
            self.inner: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{folder} has no tokenizer that can be read: {reason}") from error
        self.name = str(folder)
        self.vocab_size = len(self.inner)
        self.end_of_text: int | None = self.inner.eos_token_id
        self._special = frozenset(self.inner.all_special_ids)

    def encode(self, text: str) -> list[int]:
        return list(self.inner(text, verbose=False).input_ids)

    def encode_array(self, text: str) -> NDArray[np.integer]:
        return np.asarray(self.encode(text), dtype=np.int64)

    def bytes_of(self, token_id: int) -> bytes:
        token_id = int(token_id)
        if token_id in self._special:
            return b""
        token = self.inner.convert_ids_to_tokens(token_id) if 0 <= token_id < self.vocab_size else None
        if token is None:
            raise self._no_such_token(token_id)
        if token_id in self.inner.added_tokens_decoder:
            return token.encode()
        if self._is_byte_level:
            return bytes(_BYTES_OF_LETTERS[letter] for letter in token)
        if byte := _BYTE.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace("▁", " ").encode()  # SentencePiece writes a space so

    def byte_lengths(self) -> NDArray[np.int64]:
        return self._lengths

    def label(self, token_id: int) -> str:
        if int(token_id) in self._special:
            return visible(self.inner.convert_ids_to_tokens(int(token_id)))
        return super().label(token_id)

    def to_json(self) -> dict[str, Any]:
        return {"name": "hf", "folder": self.name}

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return np.array([len(self.bytes_of(token_id)) for token_id in range(self.vocab_size)], dtype=np.int64)

    @cached_property
    def _is_byte_level(self) -> bool:
        """Whether tokens are written in GPT-2's alphabet of 256 letters, one for each byte."""
        backend = getattr(self.inner, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in str(backend.decoder)


def _letters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for letters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES_OF_LETTERS = _letters()
