"""The stream at chosen points, and nothing else: what lenses, probes and patching are fed with.

A capture (`lab/analysis/capture.py`) keeps attention weights and checks itself, for what is shown. Here a model reads
hundreds of texts, with its fast attention kernel.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor

from lab.analysis.interventions import edited
from lab.models.families import Anatomy

Point = Literal["pre_attn", "post_attn", "post_ffn", "delta_attn", "delta_ffn"]


@torch.no_grad()
def record(parts: Anatomy, ids: Tensor, *points: Point) -> list[Tensor]:
    """The stream at some points, in one pass: for each point [layer, batch, pos, d_model].

    Args:
        ids: int64 [batch, pos]. The model is expected in eval mode.
    """
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(point: str, layer: int) -> Callable[[Tensor], Tensor]:
        def look(stream: Tensor) -> Tensor:
            seen[point, layer] = stream
            return stream

        return look

    layers = range(parts.n_layers)
    wanted = {"pre_attn", "delta_attn"} if "post_attn" in points else set()
    wanted |= set(points) - {"post_attn"}
    with edited(parts, {(point, layer): keep(point, layer) for point in wanted for layer in layers}):
        parts(ids.to(parts.device))

    def at(point: Point, layer: int) -> Tensor:
        if point == "post_attn":  # a sum inside the block, where no hook reaches
            return seen["pre_attn", layer] + seen["delta_attn", layer]
        return seen[point, layer]

    return [torch.stack([at(point, layer) for layer in layers]) for point in points]


def record_rows(parts: Anatomy, ids: Tensor) -> Tensor:
    """The stream before the first block and after each: [layer + 1, batch, pos, d_model]."""
    before, after = record(parts, ids, "pre_attn", "post_ffn")
    return torch.cat([before[:1], after])


@torch.no_grad()
def record_heads(parts: Anatomy, ids: Tensor, layers: list[int] | None = None) -> list[Tensor]:
    """What each head fetched, before the heads are mixed: for each layer asked for [batch, pos, head, d_head]."""
    fetched: list[Tensor] = []

    def look(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        fetched.append(args[0].unflatten(-1, (parts.n_heads, -1)))

    with ExitStack() as hooks:
        for layer in range(parts.n_layers) if layers is None else sorted(layers):
            hooks.callback(parts.blocks[layer].heads_meet.register_forward_pre_hook(look).remove)
        parts(ids.to(parts.device))
    return fetched
