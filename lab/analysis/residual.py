"""What runs through the model, and who wrote it: sizes, shares and directions in the residual stream.

The stream is written to by addition only, so at the end of block l it is a sum:

    post_ffn[l] = embedding + Δattn[0] + Δffn[0] + … + Δattn[l] + Δffn[l]

A capture holds the stream at three points (`pre_attn`, `post_attn`, `post_ffn`) and both additions (`delta_attn`,
`delta_ffn`), each [layer, batch, pos, d_model]. Lengths are Euclidean norms, in the model's own units.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lab.errors import ModelError


def norms(stream: Tensor) -> Tensor:
    """The length of each vector: [..., d_model] -> [...]. For a captured point [layer, batch, pos]."""
    return torch.linalg.vector_norm(_exact(stream), dim=-1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between vectors: [..., d_model] twice -> [...], −1 to 1; NaN for a vector of length 0.

    An addition at cosine 0 writes something new; near 1 it repeats what is there; below 0 it takes away.
    """
    a, b = _exact(a), _exact(b)
    return ((a * b).sum(-1) / (norms(a) * norms(b))).clamp(-1, 1)


def shares(parts: Tensor) -> Tensor:
    """Each part's share of their sum, along the sum's own direction: [part, ..., d_model] -> [part, ...].

    share = ⟨part, total⟩ / ⟨total, total⟩, so the shares add up to exactly 1. A negative share works against the
    total. Lengths would not do: they do not add up, and two large parts may cancel.
    """
    parts = _exact(parts)
    total = parts.sum(0)
    return (parts * total).sum(-1) / (total * total).sum(-1)


def stream_parts(pre_attn: Tensor, delta_attn: Tensor, delta_ffn: Tensor) -> tuple[list[str], Tensor]:
    """The embedding and every branch's addition, in the order they were written.

    Args:
        pre_attn, delta_attn, delta_ffn: [layer, batch, pos, d_model].

    Returns:
        Names (`embedding`, `attention 0`, `feed-forward 0`, …) and [part, batch, pos, d_model], which adds up to the
        stream after the last block. Layers are counted from 0.
    """
    names, parts = ["embedding"], [_exact(pre_attn[0])]
    for layer in range(len(delta_attn)):
        names += [f"attention {layer}", f"feed-forward {layer}"]
        parts += [_exact(delta_attn[layer]), _exact(delta_ffn[layer])]
    return names, torch.stack(parts)


@dataclass(frozen=True)
class BranchEffect:
    """What one branch did in each layer: every field [layer], the mean over texts and positions."""

    length: Tensor
    """‖Δ‖, the length of what it added."""
    relative: Tensor
    """‖Δ‖ / ‖stream it was added to‖."""
    cosine: Tensor
    """Direction of the addition against that stream: 0 new, above 0 more of the same, below 0 removing."""
    turned: Tensor
    """By how many degrees the addition turned the stream."""


@dataclass(frozen=True)
class LayerDiff:
    """What each layer did, attention and feed-forward apart."""

    attention: BranchEffect
    feed_forward: BranchEffect


def layer_diff(residual: Mapping[str, Tensor]) -> LayerDiff:
    """What attention and what the feed-forward did, per layer.

    Attention is judged against the stream before it (`pre_attn`), the feed-forward against the stream that it was added
    to (`post_attn`): with one difference from block input to block output the two would be mixed up.

    Args:
        residual: a capture's points and deltas, each [layer, batch, pos, d_model]. In models whose branches run side by
            side (Phi, GPT-J, NeoX) `post_attn` is virtual: pre_attn + Δattn.
    """
    return LayerDiff(
        attention=_effect(residual["pre_attn"], residual["delta_attn"]),
        feed_forward=_effect(residual["post_attn"], residual["delta_ffn"]),
    )


def _effect(before: Tensor, delta: Tensor) -> BranchEffect:
    before, delta = _exact(before), _exact(delta)
    lengths = norms(delta)
    turned = torch.rad2deg(_angle(before, before + delta))
    values = (lengths, lengths / norms(before), cosine(delta, before), turned)
    return BranchEffect(*(value.nanmean((1, 2)) for value in values))


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Radians between vectors, exact also for tiny angles, where the arc cosine has no digits left (Kahan 2006)."""
    a, b = (v / norms(v)[..., None] for v in (a, b))
    return 2 * torch.atan2(norms(a - b), norms(a + b))


def layer_rows(residual: Mapping[str, Tensor]) -> Iterator[dict[str, int | float | str]]:
    """A capture's figures as long rows (layer, point, name, value): what `layer_stats` stores.

    At the three points the mean `length` of the stream; at delta_attn and delta_ffn `length`, `relative`,
    `cosine` and `turned` (degrees) of the branch. Finite values only.
    """
    columns = {
        (point, "length"): norms(residual[point]).mean((1, 2)) for point in ("pre_attn", "post_attn", "post_ffn")
    }
    diff = layer_diff(residual)
    for point, effect in (("delta_attn", diff.attention), ("delta_ffn", diff.feed_forward)):
        columns |= {(point, field.name): getattr(effect, field.name) for field in fields(effect)}
    for (point, name), values in columns.items():
        for layer, value in enumerate(values.tolist()):
            if math.isfinite(value):
                yield {"layer": layer, "point": point, "name": name, "value": value}


@dataclass(frozen=True)
class BranchChange:
    """How two models differ in what their branches added to the same text: each [layer], mean over positions."""

    attention: Tensor
    """‖Δattn of one − Δattn of the other‖ / ‖Δattn of the first‖."""
    feed_forward: Tensor


def compare_branches(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> BranchChange:
    """What changed between two captures of the same tokens (base and tuned, two checkpoints), per layer and branch.

    Later layers read what earlier ones wrote, so their difference holds what came to them as well.

    Args:
        before, after: captures' points and deltas, each [layer, batch, pos, d_model].

    Raises:
        ModelError: the captures have different shapes.
    """
    one, other = before["delta_attn"].shape, after["delta_attn"].shape
    if one != other:
        raise ModelError(
            f"These two captures cannot be compared layer by layer: one is {tuple(one)}, the other {tuple(other)} "
            "[layer, text, position, width]; capture the same text with two models of the same shape."
        )
    changes = []
    for branch in ("delta_attn", "delta_ffn"):
        a = _exact(before[branch])
        b = _exact(after[branch]).to(a.device)  # a stored capture is read on the CPU
        changes.append((norms(a - b) / norms(a)).nanmean((1, 2)))
    return BranchChange(*changes)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
