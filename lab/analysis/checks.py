"""Checks that every captured number passes before it is shown.

A hook on the wrong module still returns a tensor, and the picture drawn from it looks plausible. So each capture
measures what must hold if it shows what the model really did, and compares it with what rounding can explain. The
thresholds follow from the machine epsilon of the model's numbers (the distance from 1 to the next larger number:
1.2e-7 in fp32, 7.8e-3 in bf16), so that a coarse format is not always red and a fine one not always green.

Let u = epsilon / 2 be the largest relative error of one rounding.

    rows sum to 1     Each weight was rounded once when it left the softmax, and they are positive, so their sum is
                      off by u at most. The softmax works in 32 bits: it adds up the keys in 8 or more lanes, each one
                      key after the other, so the roundings of those grow like a random walk. Its spread is
                      u √(keys / 8) / 3, and the largest of a million rows is five spreads off: 0.3 epsilon √keys.
    no future         e^-inf is exactly 0 in every format.
    sum of branches   pre + Δattn + Δffn and post differ by two roundings on either side, 4 u = 2 epsilon of the
                      magnitudes that are added, in each single number.
    last lens row     the final norm and the output layer run again on the last point of the stream, for the last
                      position only: a sum of `width` products in another order, log2(width) roundings of 32 bits, and
                      in 16 bits two roundings of those; as a share of the largest logit.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One thing that must hold, what was measured, and up to where rounding explains it."""

    name: str
    measured: float
    threshold: float
    meaning: str

    @property
    def ok(self) -> bool:
        """NaN is not ok."""
        return self.measured <= self.threshold

    def __str__(self) -> str:
        return f"{self.name}: {self.measured:.2g} ({'within' if self.ok else 'ABOVE'} {self.threshold:.2g})"


class Checks(tuple[Check, ...]):
    """All checks of a capture."""

    def __new__(cls, checks: Iterable[Check]) -> "Checks":
        return super().__new__(cls, checks)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self if not check.ok]

    @property
    def sentence(self) -> str:
        """For the badge."""
        if self.ok:
            worst = max((check.measured for check in self if check.threshold > 0), default=0.0)
            return f"Checked on your model: {len(self)} of {len(self)} hold; the largest error is {worst:.2g}."
        named = "; ".join(f"{check}: {check.meaning}" for check in self.failed)
        return f"Not shown, because the numbers may be wrong. {named}"

    def named(self, name: str) -> Check:
        return next(check for check in self if check.name == name)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(check) for check in self]


def rows_threshold(dtype: torch.dtype, n_keys: int) -> float:
    """Largest distance from 1 of a row of attention that rounding explains."""
    rounding = epsilon(dtype) / 2 if dtype != torch.float32 else 0.0
    tiny = torch.finfo(dtype).tiny * n_keys  # weights below the smallest number become 0
    walk = 0.3 * math.sqrt(n_keys)
    return rounding + tiny + epsilon(torch.float32) * (2 + math.log2(max(n_keys, 2)) + walk)


def branches_threshold(dtype: torch.dtype) -> float:
    """Largest relative error of pre + Δattn + Δffn against post that rounding explains."""
    return 2 * epsilon(dtype)


def lens_threshold(dtype: torch.dtype, width: int) -> float:
    """Largest difference of the last lens row to the logits, as a share of the largest logit."""
    rounding = 2 * epsilon(dtype) if dtype != torch.float32 else 0.0
    return rounding + epsilon(torch.float32) * (2 + math.log2(width))


def epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def row_error(weights: Tensor) -> Tensor:
    """[batch, head, query_pos, key_pos] -> the largest distance of a row's sum from 1: []."""
    # NaN must not vanish in a maximum: max() hands it on
    return (weights.sum(-1, dtype=torch.promote_types(weights.dtype, torch.float32)) - 1).abs().max()


def future_weight(weights: Tensor) -> Tensor:
    """The largest weight on a key behind its query: []. Exactly 0 in a causal model.

    In strips of queries, so that what is visible anyway is not copied: half of the work, and at a long text a small
    part of the memory.
    """
    n_queries, n_keys = weights.shape[-2:]
    first = n_keys - n_queries + 1  # the key behind query 0
    strip = max(64, n_queries // 16)
    found = [weights.new_zeros(())]
    for top in range(0, n_queries, strip):
        hidden = weights[..., top : top + strip, top + first :]
        if hidden.shape[-1]:
            found.append(hidden[..., :strip].triu().abs().amax())
        if hidden.shape[-1] > strip:
            found.append(hidden[..., strip:].abs().amax())
    return torch.stack(found).max()


def branches_error(pre: Tensor, delta_attn: Tensor, delta_ffn: Tensor, post: Tensor) -> Tensor:
    """The largest error of pre + Δattn + Δffn = post in any single number, relative to what was added: [].

    Relative to each number's own size, since the stream of a trained model has a few dimensions a thousand times
    larger than the rest: next to those any mistake would look small.
    """
    error = (pre + delta_attn).add_(delta_ffn).sub_(post).abs_()
    size = pre.abs().add_(delta_attn.abs()).add_(delta_ffn.abs())
    return error.div_(size.clamp_(min=torch.finfo(size.dtype).tiny)).max()


def lens_error(lens: Tensor, logits: Tensor) -> float:
    """The largest difference of the logits read off the stream to the model's own, as a share of its largest."""
    largest = logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
    return float((lens - logits).abs().max() / largest)
