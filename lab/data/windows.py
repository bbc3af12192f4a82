"""The arithmetic of windows: which stretch of a text is for what, and where its windows start.

A window of context length T needs T + 1 tokens: T inputs, and as labels the same tokens one place further on.

    tokens   t0 t1 t2 t3 t4 …        T = 4
    inputs   t0 t1 t2 t3
    labels      t1 t2 t3 t4          "after t0 comes t1; after t0 t1 comes t2; …"
"""

import math

import numpy as np
from numpy.typing import NDArray

from lab.errors import DataError


def split(n_tokens: int, val_fraction: float) -> tuple[range, range]:
    """Token places for training and for validation.

    Validation is one piece at the end, not windows picked here and there: neighbouring windows share sentences,
    so picking would let the model see what it is examined on.
    """
    n_train = int(n_tokens * (1 - val_fraction))
    return range(n_train), range(n_train, n_tokens)


def check_lengths(
    n_train: int, n_val: int, context_length: int, *, val_fraction: float, corpus: str = "The text"
) -> None:
    """Make sure that both parts hold at least one whole window.

    Raises:
        DataError: one does not; the sentence does the arithmetic.
    """
    needed = context_length + 1
    short = [f"{name} part {n:,}" for name, n in (("training", n_train), ("validation", n_val)) if n < needed]
    if not short:
        return
    total, longest = n_train + n_val, min(n_train, n_val) - 1
    wanted = math.ceil(needed / min(val_fraction, 1 - val_fraction))
    ways = [f"take a text of at least {wanted:,} tokens"]
    if longest >= 2:
        ways.append(f"a context_length of at most {longest:,}")
    if n_val < needed and total >= 2 * needed:
        ways.append(f"a val_fraction of {math.ceil(100 * needed / total) / 100:g}")
    raise DataError(
        f"{corpus} is too short: of its {total:,} tokens, val_fraction {val_fraction:g} leaves the "
        f"{' and the '.join(short)}, but a window of context_length {context_length:,} needs "
        f"{context_length:,} + 1 = {needed:,} in each; {', or '.join(ways)}."
    )


def count_windows(n_tokens: int, context_length: int, stride: int) -> int:
    """How many whole windows fit: starts 0, stride, 2 · stride … with `start + context_length + 1 <= n_tokens`."""
    return max(0, (n_tokens - context_length - 1) // stride + 1)


def validation_windows(n_tokens: int, context_length: int, eval_tokens: int | None) -> NDArray[np.int64]:
    """Where the windows of the validation loss start: the same ones at every evaluation, and none overlaps another.

    Args:
        n_tokens: length of the validation part.
        eval_tokens: how much to read, rounded down to whole windows (at least one), evenly spaced over the part.
            None, or more than there is: everything, with a shorter last window, so that every token but the first
            is predicted exactly once.

    Returns:
        Start places, rising: [window].
    """
    if eval_tokens is None or eval_tokens >= n_tokens - 1:
        return np.arange(0, n_tokens - 1, context_length, dtype=np.int64)
    whole = count_windows(n_tokens, context_length, context_length)
    wanted = max(1, eval_tokens // context_length)
    return np.arange(wanted, dtype=np.int64) * whole // wanted * context_length
