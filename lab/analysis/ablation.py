"""Switching heads off: what does the model lose without them?

A pattern of attention shows where a head looks, not whether that matters. Here the head's output is taken away, and the
text's loss and the next token say what it was worth (Michel et al. 2019, "Are Sixteen Heads Really Better than One?").
A small effect does not prove a useless head: others may do the same work, and step in (Wang et al. 2022, backup heads).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lab.analysis.interventions import switched_off
from lab.errors import DataError
from lab.models.families import Anatomy

ReplaceBy = Literal["zero", "mean"]
"""`zero` takes the head's output away. `mean` puts its mean over this text's positions there: what the head always says
stays, what it says about *this* place goes (Wang et al. 2022)."""


@dataclass(frozen=True)
class Ablation:
    """A text, read with and without some heads."""

    loss_before: Tensor
    """[batch, pos − 1], nats: how surprising each token was; entry i is about token i + 1."""
    loss_after: Tensor
    """The same without the heads."""
    next_before: Tensor
    """[batch, vocab], probabilities of the token after the text."""
    next_after: Tensor

    @property
    def loss_change(self) -> float:
        """Nats per token that the text got harder; NaN for a text of one token."""
        return (self.loss_after - self.loss_before).mean().item()

    def biggest_changes(self, n: int = 5) -> list[tuple[int, float, float]]:
        """(token id, probability before, after) of the first text's next token, largest change first."""
        before, after = self.next_before[0], self.next_after[0]
        ids = (after - before).abs().topk(min(n, len(before))).indices.tolist()
        return [(i, before[i].item(), after[i].item()) for i in ids]


@torch.no_grad()
def ablate(
    parts: Anatomy, ids: Tensor, heads: Iterable[tuple[int, int]], *, replace_by: ReplaceBy = "zero"
) -> Ablation:
    """Read a text with and without some heads.

    Args:
        ids: int64 [batch, pos].
        heads: (layer, head) of each that is switched off, counted from 0; none changes nothing.

    Raises:
        DataError: an empty text.
        ModelError: a layer or head that does not exist.
    """
    if ids.shape[-1] == 0:
        raise DataError("The text is empty: type at least one word.")
    ids = ids.to(parts.device)
    before = parts(ids)
    with without_heads(parts, heads, replace_by):
        after = parts(ids)
    return Ablation(_losses(before, ids), _losses(after, ids), _next(before), _next(after))


@torch.no_grad()
def head_importance(
    parts: Anatomy,
    ids: Tensor,
    *,
    replace_by: ReplaceBy = "zero",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """By how many nats per token the text gets harder when each head alone is off: [layer, head].

    One pass for each head.

    Args:
        ids: int64 [batch, pos], at least two tokens.
        progress: told (heads done, heads).

    Raises:
        DataError: a text of fewer than two tokens, which has no loss.
    """
    if ids.shape[-1] < 2:
        raise DataError("A text of one token has no loss: type at least two.")
    ids = ids.to(parts.device)
    base = _losses(parts(ids), ids).mean()
    change = torch.zeros(parts.n_layers, parts.n_heads)
    for layer in range(parts.n_layers):
        for head in range(parts.n_heads):
            with without_heads(parts, [(layer, head)], replace_by):
                change[layer, head] = _losses(parts(ids), ids).mean() - base
            if progress is not None:
                progress(layer * parts.n_heads + head + 1, change.numel())
    return change


@contextmanager
def without_heads(parts: Anatomy, heads: Iterable[tuple[int, int]], replace_by: ReplaceBy) -> Iterator[None]:
    """Within `with`, these heads' outputs are nothing, or their mean over the text.

    Raises:
        ModelError: a layer or head that does not exist.
    """
    heads = list(heads)
    with switched_off(parts, heads):  # checks that they exist
        if replace_by == "zero":
            yield
            return
    with ExitStack() as hooks:
        for layer in {layer for layer, _ in heads}:
            hook = _averaging([head for at, head in heads if at == layer], parts.n_heads)
            hooks.callback(parts.blocks[layer].heads_meet.register_forward_pre_hook(hook).remove)
        yield


def _averaging(off: list[int], n_heads: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        fetched = args[0].unflatten(-1, (n_heads, -1)).clone()  # [batch, pos, head, d_head]
        fetched[:, :, off] = fetched[:, :, off].mean(1, keepdim=True)
        return (fetched.flatten(-2), *args[1:])

    return hook


def _losses(logits: Tensor, ids: Tensor) -> Tensor:
    """[batch, pos, vocab], [batch, pos] -> [batch, pos − 1]."""
    log_p = logits[:, :-1].float().log_softmax(-1)
    return -log_p.gather(-1, ids[:, 1:, None].to(log_p.device))[..., 0]


def _next(logits: Tensor) -> Tensor:
    return logits[:, -1].float().softmax(-1)
