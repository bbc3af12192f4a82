"""Proof that a file computes what the trained model does: both read the same prompts, and their answers are compared.

KL(trained ‖ exported), in nats at each place, says how different the two distributions over the next token are; top-1
agreement says at how many places both find the same token likeliest. A file in 32 bits has to agree to rounding; one in
16 or 8 bits is another, coarser model, and the certificate says by how much.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

PROMPTS = (
    "What is the capital of France?",
    "How do I make tea?",
    "Tell me about the sea.",
    "What is two plus two?",
    "Why is the sky blue?",
    "Name three animals.",
    "What should I do when it rains?",
    "Who are you?",
)
"""Asked of every trained and every exported model."""

Verdict = Literal["equivalent", "close", "not equivalent"]
EXACT_KL, EXACT_TOP1 = 1e-4, 1.0
"""For files that keep 32 bits."""
ROUNDED_KL, ROUNDED_TOP1 = 1e-2, 0.95
"""For files in 16 or 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two models say at the same places."""

    places: int
    kl_mean: float
    kl_max: float
    top1: float
    """Share of places at which both find the same token likeliest."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was exported, and how it compares with what was trained."""

    run_id: str
    name: str
    step: int
    format: str
    """adapter, merged, gguf"""
    number_format: str
    """Of the weights in the file."""
    base: str
    merged_into: str
    """Which weights the adapter was added to; empty for an adapter."""
    reference: str
    """What the trained model was computed with."""
    tokens_agree: bool | None
    """Whether the exported tokenizer reads the prompts as the trained one does; None where none is exported."""
    comparison: Comparison
    threshold_kl: float
    threshold_top1: float
    verdict: Verdict
    notes: tuple[str, ...]
    files: tuple[dict[str, Any], ...]
    """path, bytes, sha256"""
    created_at: str
    versions: dict[str, str]

    @property
    def sentence(self) -> str:
        found = self.comparison
        return (
            f"{self.verdict.capitalize()}: KL {found.kl_mean:.2g} nats (largest {found.kl_max:.2g}), same likeliest "
            f"token at {found.top1:.1%} of {found.places:,} places."
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


def compare(trained: Sequence[Tensor], exported: Sequence[Tensor]) -> Comparison:
    """Args: trained, exported: logits of each prompt, [pos, vocab] each; a padded vocabulary may be longer."""
    kls, same = [], []
    for one, other in zip(trained, exported, strict=True):
        width = min(one.shape[-1], other.shape[-1])
        p, q = one[:, :width].double().log_softmax(-1), other[:, :width].double().log_softmax(-1)
        kls.append((p.exp() * (p - q)).sum(-1))  # [pos]
        same.append(p.argmax(-1) == q.argmax(-1))
    kl, agree = torch.cat(kls), torch.cat(same)
    return Comparison(
        places=len(kl),
        kl_mean=max(0.0, float(kl.mean())),
        kl_max=max(0.0, float(kl.max())),
        top1=float(agree.double().mean()),
    )


def thresholds(*, is_exact: bool) -> tuple[float, float]:
    """Mean KL and top-1 agreement that a file has to keep."""
    return (EXACT_KL, EXACT_TOP1) if is_exact else (ROUNDED_KL, ROUNDED_TOP1)


def verdict_of(found: Comparison, *, is_exact: bool) -> Verdict:
    """equivalent: as good as 32 bits can tell. close: coarser, within the threshold of its format. Else: not."""
    if found.kl_mean <= EXACT_KL and found.top1 >= EXACT_TOP1:
        return "equivalent"
    kl, top1 = thresholds(is_exact=is_exact)
    return "close" if not is_exact and found.kl_mean <= kl and found.top1 >= top1 else "not equivalent"
