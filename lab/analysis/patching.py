"""Activation patching: which place in the model carries the difference between two prompts?

Two prompts of equal length differ in one fact, and so in the answer: "The capital of France is", "The capital of
Italy is". The second is run with one vector of its stream replaced by that of the first. If the answer swings over,
what decides it passes through that place (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", causal
tracing; the logit difference as measure: Wang et al. 2022; Zhang & Nanda 2023, "Towards Best Practices of Activation
Patching").
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.analysis.interventions import edited
from lab.analysis.recording import Point, record
from lab.errors import DataError
from lab.models.families import Anatomy

_TOKENS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Patching:
    """What replacing one place does to logit(answer) − logit(other) at the last position."""

    point: Point
    differences: Tensor
    """[layer, pos], in logits: the difference with that place taken from the clean prompt."""
    clean: float
    """The difference of the clean prompt, in logits."""
    corrupted: float
    """The difference of the corrupted prompt."""

    @property
    def restored(self) -> Tensor:
        """[layer, pos]: 0 = the patch changed nothing, 1 = the clean prompt's difference is back.

        Raises:
            DataError: both prompts give the same difference, so there is nothing to restore.
        """
        gap = self.clean - self.corrupted
        if abs(gap) < 1e-6:
            raise DataError(
                f"Both prompts give the same logit difference ({self.clean:.3g}), so there is nothing to trace: choose "
                "prompts or answers that differ."
            )
        return (self.differences - self.corrupted) / gap


@torch.no_grad()
def patch_everywhere(
    parts: Anatomy,
    clean: Tensor,
    corrupted: Tensor,
    answer: int,
    other: int,
    *,
    point: Point = "post_ffn",
    progress: Callable[[int, int], None] | None = None,
) -> Patching:
    """Patch each layer × position once, from the clean prompt into the corrupted one.

    All positions of a layer are one batch of copies of the corrupted prompt, each with one place replaced.

    Args:
        clean, corrupted: int64 [pos], of equal length.
        answer: the token that the clean prompt calls for.
        other: the token that the corrupted prompt calls for.
        progress: told (layers done, layers).

    Raises:
        DataError: prompts of different length, or the same, or empty.
        ModelError: a point that this model does not have.
    """
    _check(clean, corrupted)
    length = len(clean)
    (source,) = record(parts, clean[None], point)  # [layer, 1, pos, d_model]

    def difference(logits: Tensor) -> Tensor:
        return logits[:, -1, answer].float() - logits[:, -1, other].float()

    base = [difference(parts(ids[None].to(parts.device))).item() for ids in (clean, corrupted)]
    rows = max(1, _TOKENS_AT_ONCE // length)
    layers = []
    for layer in range(parts.n_layers):
        found = []
        for start in range(0, length, rows):
            positions = torch.arange(start, min(start + rows, length))
            copies = corrupted.expand(len(positions), length).to(parts.device)
            with edited(parts, {(point, layer): _one_place_each(source[layer, 0], positions)}):
                found.append(difference(parts(copies)))
        layers.append(torch.cat(found).cpu())
        if progress is not None:
            progress(layer + 1, parts.n_layers)
    return Patching(point, torch.stack(layers), clean=base[0], corrupted=base[1])


def _one_place_each(source: Tensor, positions: Tensor) -> Callable[[Tensor], Tensor]:
    """Text i of the batch gets the vector of position positions[i]: source [pos, d_model]."""

    def edit(stream: Tensor) -> Tensor:  # [batch, pos, d_model]
        stream = stream.clone()
        stream[torch.arange(len(positions)), positions] = source[positions].to(stream)
        return stream

    return edit


def _check(clean: Tensor, corrupted: Tensor) -> None:
    if len(clean) != len(corrupted):
        raise DataError(
            f"The prompts have {len(clean)} and {len(corrupted)} tokens; patching needs the same number, so that every "
            "place has a counterpart: change a word to one of as many tokens."
        )
    if len(clean) == 0:
        raise DataError("The prompts are empty: type two that differ in one word.")
    if torch.equal(clean, corrupted):
        raise DataError("The two prompts are the same tokens: change one word in the second.")
