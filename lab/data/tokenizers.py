"""From text to token ids and back.

A model never sees letters: it sees numbers. A tokenizer decides which piece of text each number stands for.

- `char`: every character of the corpus is one token. A tiny vocabulary, long sequences.
- `gpt2`: byte-pair encoding, the 50,257 pieces of GPT-2. Frequent words are one token, rare ones several; since it
  starts from bytes, every text can be written in it.

Whatever the tokenizer, the bytes of all tokens of a text add up to the bytes of the text. That makes losses of
different vocabularies comparable: in bits per byte.
"""

import base64
import codecs
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lab.errors import DataError

if TYPE_CHECKING:
    import tiktoken

GPT2_FILE = Path(__file__).with_name("gpt2.tiktoken")
GPT2_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
GPT2_END_OF_TEXT = "<|endoftext|>"
# How GPT-2 cuts text before it merges bytes: contractions, words and numbers with the space before them, the rest.
# Merges never cross these cuts. `++` and `?!` as in tiktoken's r50k_base.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

_BLOCK = 1 << 20  # tokens looked at in one go when counting bytes


class Tokenizer(Protocol):
    """What the lab needs of any tokenizer. Ids are 0 … vocab_size - 1."""

    name: str
    vocab_size: int
    end_of_text: int | None
    """The id that separates documents, where the vocabulary has one."""

    def encode(self, text: str) -> list[int]: ...

    def encode_array(self, text: str) -> NDArray[np.integer]:
        """The same ids as `encode` as an array [token]: for whole corpora, where a list would be 8 times larger."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these tokens; bytes that are not (yet) UTF-8 become U+FFFD."""
        ...

    def tokenize(self, text: str) -> list[str]:
        """One visible label per token: ␣ for a space, \\n for a newline."""
        ...

    def label(self, token_id: int) -> str:
        """The visible label of one token."""
        ...

    def count_bytes(self, ids: Sequence[int] | NDArray[np.integer]) -> int:
        """How many UTF-8 bytes of text these tokens stand for, together."""
        ...

    def decode_stream(self) -> "DecodeStream": ...

    def to_json(self) -> dict[str, Any]:
        """What a run stores, so that it is read with the tokenizer it was made with."""
        ...


class DecodeStream:
    """Text from tokens that arrive one by one. A character cut in two by a token boundary waits for its rest."""

    def __init__(self, bytes_of: Callable[[int], bytes]):
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """The text that is complete now; empty while a character is unfinished."""
        return self._decoder.decode(self._bytes_of(token_id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never became complete, else nothing."""
        return self._decoder.decode(b"", final=True)


class MadeOfBytes(ABC):
    """All that follows from knowing the bytes of each token."""

    name: str
    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def bytes_of(self, token_id: int) -> bytes: ...

    @abstractmethod
    def byte_lengths(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each token: [vocab_size]."""

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.bytes_of(token_id) for token_id in ids).decode("utf-8", errors="replace")

    def tokenize(self, text: str) -> list[str]:
        return [self.label(token_id) for token_id in self.encode(text)]

    def label(self, token_id: int) -> str:
        # backslashreplace: a piece of a character has no letter of its own, so its bytes are shown: \xe2\x80
        return visible(self.bytes_of(token_id).decode("utf-8", errors="backslashreplace"))

    def count_bytes(self, ids: Sequence[int] | NDArray[np.integer]) -> int:
        lengths, ids = self.byte_lengths(), np.asarray(ids)
        return sum(int(lengths[ids[start : start + _BLOCK]].sum()) for start in range(0, len(ids), _BLOCK))

    def decode_stream(self) -> DecodeStream:
        return DecodeStream(self.bytes_of)

    def _no_such_token(self, token_id: int) -> DataError:
        return DataError(
            f"Token {token_id} is not in the {self.name} vocabulary, whose ids are 0 to {self.vocab_size - 1:,}: "
            "the tokens belong to another tokenizer."
        )


class GPT2Tokenizer(MadeOfBytes):
    """GPT-2's byte-pair encoding by tiktoken, from the vocabulary file that ships with the lab.

    `<|endoftext|>` written in a text becomes the end-of-text token, as in the usual story collections.
    The vocabulary is read at first use (0.1 s) and shared.
    """

    name = "gpt2"
    vocab_size = 50_257
    end_of_text: int | None = 50_256

    def encode(self, text: str) -> list[int]:
        with _told_of_endless_blanks():
            return _gpt2().encode(text, allowed_special="all")

    def encode_array(self, text: str) -> NDArray[np.integer]:
        with _told_of_endless_blanks():
            return _gpt2().encode_to_numpy(text, allowed_special="all")

    def bytes_of(self, token_id: int) -> bytes:
        try:
            return _gpt2().decode_single_token_bytes(int(token_id))
        except (KeyError, OverflowError) as error:
            raise self._no_such_token(token_id) from error

    def byte_lengths(self) -> NDArray[np.int64]:
        return _gpt2_byte_lengths()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": GPT2_SHA256}


class CharTokenizer(MadeOfBytes):
    """Every character is a token; ids follow the order of `characters`."""

    name = "char"
    end_of_text: int | None = None

    def __init__(self, characters: str):
        """
        Args:
            characters: the vocabulary, each character once.

        Raises:
            DataError: there is none, or one stands there twice.
        """
        if not characters or len(set(characters)) != len(characters):
            raise DataError("A character vocabulary needs at least one character, and each of them once.")
        self.characters = characters
        self.vocab_size = len(characters)
        self._ids = {character: token_id for token_id, character in enumerate(characters)}
        codes = _code_points(characters)
        self._order = np.argsort(codes)  # so that a corpus can be looked up by binary search
        self._sorted_codes = codes[self._order]

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            raise self._unknown(text) from None

    def encode_array(self, text: str) -> NDArray[np.integer]:
        codes = _code_points(text)
        places = np.minimum(np.searchsorted(self._sorted_codes, codes), self.vocab_size - 1)
        if not np.array_equal(self._sorted_codes[places], codes):
            raise self._unknown(text)
        return self._order[places]

    def bytes_of(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise self._no_such_token(token_id)
        return self.characters[token_id].encode("utf-8", errors="replace")

    def byte_lengths(self) -> NDArray[np.int64]:
        return np.array([len(self.bytes_of(token_id)) for token_id in range(self.vocab_size)], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "characters": self.characters}

    def _unknown(self, text: str) -> DataError:
        strangers = sorted(set(text) - set(self.characters))
        listed = ", ".join(repr(character) for character in strangers[:8]) + (", …" if len(strangers) > 8 else "")
        return DataError(
            f"The text has {len(strangers)} character{'s' if len(strangers) > 1 else ''} that this vocabulary of "
            f"{self.vocab_size} characters does not know: {listed}. Leave them out, or train on a text that has them."
        )


def tokenizer_for(name: str, text: str) -> Tokenizer:
    """The tokenizer of this name for a corpus.

    Args:
        name: "gpt2" or "char".
        text: the whole corpus. The characters come from all of it, so that validation text can be encoded too.
    """
    if name == "gpt2":
        return GPT2Tokenizer()
    if name == "char":
        return CharTokenizer("".join(sorted(set(text))))
    raise DataError(f"There is no tokenizer {name!r}: choose gpt2 or char.")


def load_tokenizer(stored: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `to_json` this is.

    Raises:
        DataError: it is of a kind, or of a GPT-2 vocabulary, that this lab does not have.
    """
    name = stored.get("name")
    if name == "gpt2":
        if stored.get("sha256") != GPT2_SHA256:
            raise DataError("The stored tokenizer uses another GPT-2 vocabulary file than this lab's: update the lab.")
        return GPT2Tokenizer()
    if name == "char":
        characters = stored.get("characters")
        if not isinstance(characters, str):
            raise DataError("The stored character tokenizer has no list of characters: its file is damaged.")
        return CharTokenizer(characters)
    raise DataError(f"The stored tokenizer is of kind {name!r}; this lab knows gpt2 and char.")


def identity(tokenizer: Tokenizer) -> str:
    """A short fingerprint: equal for two tokenizers exactly when they cut every text alike."""
    stored = json.dumps(tokenizer.to_json(), sort_keys=True)
    return hashlib.sha256(stored.encode("utf-8")).hexdigest()[:16]


def visible(text: str) -> str:
    """A text as a label, in which blanks and control characters can be seen."""
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character == " ":
        return "␣"
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


@contextmanager
def _told_of_endless_blanks() -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # the regular expression backtracks over a run of blanks, and gives up on a huge one
        raise DataError(
            f"GPT-2's tokenizer cannot cut this text ({error}): it has hundreds of thousands of blanks in a row; "
            "shorten them."
        ) from error


@cache
def _gpt2() -> "tiktoken.Encoding":
    import tiktoken

    try:
        content = GPT2_FILE.read_bytes()
    except OSError as error:
        raise DataError(
            f"GPT-2's vocabulary {GPT2_FILE} cannot be read ({error.strerror}): install the lab again."
        ) from error
    if hashlib.sha256(content).hexdigest() != GPT2_SHA256:
        raise DataError(f"GPT-2's vocabulary {GPT2_FILE} is damaged (its checksum differs): install the lab again.")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in content.splitlines())}
    return tiktoken.Encoding(
        "gpt2",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={GPT2_END_OF_TEXT: len(ranks)},
        explicit_n_vocab=len(ranks) + 1,
    )


@cache
def _gpt2_byte_lengths() -> NDArray[np.int64]:
    tokens = _gpt2()
    return np.array([len(tokens.decode_single_token_bytes(i)) for i in range(tokens.n_vocab)], dtype=np.int64)
