"""transformers' GPT-2 tokenizer, built from the vocabulary that ships with the lab: nothing is downloaded.

A tiktoken file has no list of merges, but it implies one: the merge that made token r joins the two pieces into
which byte-pair encoding with only the merges below r cuts its bytes. (Compared once with the published vocab.bpe and
encoder.json: equal, all 50,000 merges in order.)
"""

import base64
from functools import cache
from itertools import pairwise
from typing import Any

from lab.data.tokenizers import GPT2_END_OF_TEXT, GPT2_FILE


@cache
def reference_tokenizer() -> Any:
    from transformers import GPT2Tokenizer

    ranks = ranks_of_file()
    letters = byte_letters()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {written(token): rank for token, rank in ranks.items()} | {GPT2_END_OF_TEXT: len(ranks)}
    merges = [
        tuple(written(piece) for piece in pieces_before(token, rank, ranks))
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1
    ]
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


def ranks_of_file() -> dict[bytes, int]:
    lines = GPT2_FILE.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def pieces_before(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    pieces = [bytes([byte]) for byte in token]
    while True:
        joined = [(ranks.get(a + b, rank), place) for place, (a, b) in enumerate(pairwise(pieces))]
        best, place = min(joined, default=(rank, 0))
        if best >= rank:
            assert len(pieces) == 2, token
            return pieces
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


def byte_letters() -> dict[int, str]:
    """GPT-2's way to write any byte as one printable character: itself where it is one, else from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
