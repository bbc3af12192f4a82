"""Lenses: what would the model say if it stopped here?

The logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens") reads the stream after every block with the
model's own final norm and output layer. The stream of early layers is not written for that reader; a *tuned* lens
(`lab/analysis/tuned_lens.py`) first translates it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.analysis.readout import read_out
from lab.models.families import Anatomy

_LOGITS_AT_ONCE = 1 << 24
"""64 MiB in fp32: all layers × positions × vocabulary of a real model would be gigabytes."""

Translate = Callable[[int, Tensor], Tensor]
"""(row of the lens, stream [n, d_model]) -> stream [n, d_model]."""


@dataclass(frozen=True)
class LensResult:
    """What each row of the lens says. Row 0 is the embedding, row l + 1 the stream after block l, the last row the
    model's own answer."""

    top_ids: Tensor
    """int64 [row, batch, pos, top], the most likely next tokens, best first."""
    top_probabilities: Tensor
    """[row, batch, pos, top]."""
    entropy: Tensor
    """[row, batch, pos], nats: 0 = sure, ln(vocab) = no idea."""
    answer: Tensor
    """int64 [batch, pos], the token that rank and probability are about."""
    answer_rank: Tensor
    """int64 [row, batch, pos]: 1 = this row would say the answer."""
    answer_probability: Tensor
    """[row, batch, pos]."""
    divergence: Tensor
    """[row, batch, pos], nats: KL(model's answer ‖ this row), 0 in the last row."""


def lens_rows(pre_attn: Tensor, post_ffn: Tensor) -> Tensor:
    """The stream before the first block and after each: [layer, batch, pos, d_model] twice -> [layer + 1, …]."""
    return torch.cat([pre_attn[:1], post_ffn])


@torch.no_grad()
def read_lens(
    parts: Anatomy, rows: Tensor, *, top: int = 5, answer: Tensor | None = None, translate: Translate | None = None
) -> LensResult:
    """Read every row of the stream as if it were the last.

    Args:
        rows: [row, batch, pos, d_model], from `lens_rows`. The last one is the stream after the last block, *before*
            the final norm (transformers' `hidden_states[-1]` is after it).
        top: how many tokens to list.
        answer: int64 [batch, pos]; the model's own most likely token when left out.
        translate: of a tuned lens; without it this is the logit lens.
    """
    n_rows, batch, length, _ = rows.shape
    flat = rows.flatten(1, 2)  # [row, n, d_model]
    at_once = max(1, _LOGITS_AT_ONCE // parts.vocab_size)
    top = min(top, parts.vocab_size)
    pieces: list[list[Tensor]] = []
    for start in range(0, flat.shape[1], at_once):
        piece = flat[:, start : start + at_once]
        own = read_out(parts, piece[-1]).log_softmax(-1)  # [n, vocab]
        wanted = own.argmax(-1) if answer is None else answer.flatten()[start : start + at_once].to(own.device)
        per_row = []
        for row in range(n_rows):
            stream = piece[row] if translate is None else translate(row, piece[row])
            per_row.append(_figures(read_out(parts, stream).log_softmax(-1), own, wanted, top))
        columns = [torch.stack(column) for column in zip(*per_row, strict=True)]  # each [row, n, …]
        pieces.append([*columns, wanted[None]])
    figures = [torch.cat(column, dim=1).unflatten(1, (batch, length)) for column in zip(*pieces, strict=True)]
    top_ids, top_probabilities, entropy, rank, probability, divergence, said = figures
    return LensResult(top_ids, top_probabilities, entropy, said[0], rank, probability, divergence)


def _figures(log_p: Tensor, own: Tensor, answer: Tensor, top: int) -> tuple[Tensor, ...]:
    """log_p and own [n, vocab], answer [n] -> top ids, top probabilities, entropy, rank, probability, divergence."""
    p = log_p.exp()
    best = p.topk(top, dim=-1)
    mine = log_p.gather(-1, answer[:, None])  # [n, 1]
    rank = 1 + (log_p > mine).sum(-1)
    # xlogy-like products: a token of probability 0 has log −∞, and contributes nothing.
    entropy = -torch.where(p > 0, p * log_p, 0.0).sum(-1)
    divergence = torch.where(own.exp() > 0, own.exp() * (own - log_p), 0.0).sum(-1)
    return best.indices, best.values, entropy, rank, mine[:, 0].exp(), divergence.clamp(min=0)
