"""What an adapter did to each layer: ΔW = scale · B · A, its length, and how many directions it really uses.

ΔW is as large as the layer, but of rank r at most. With B = Qb·Rb and Aᵀ = Qa·Ra (both Q orthonormal), its singular
values are those of Rb·Raᵀ, a matrix of r × r: all layers of a large model take a moment, and no model is needed.

The effective rank is exp(H(σ / Σσ)), with H the entropy (Roy and Vetterli 2007, "The effective rank"): r when all
directions are equally strong, 1 when one does everything. Far below r everywhere: a smaller rank would have done.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PEFT = "base_model.model."
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class LayerDelta:
    """The change of one linear layer."""

    module: str
    """Its name in the base model."""
    layer: int
    """Number of its block; -1 outside of the blocks."""
    part: str
    """Its name within the block: self_attn.q_proj, mlp.down_proj …"""
    rank: int
    singular_values: tuple[float, ...]
    """Of ΔW, the largest first; `rank` many."""
    norm: float
    """Frobenius norm: the length of ΔW."""
    relative: float | None
    """That length against the layer's own weights; None when those are not at hand."""
    effective_rank: float
    """Between 1 and `rank`; 0 for an adapter that changes nothing."""


def layer_deltas(
    tensors: Mapping[str, Tensor],
    adapter_config: Mapping[str, Any],
    base_norm: Callable[[str], float | None] = lambda module: None,
) -> list[LayerDelta]:
    """The change of every layer, in the order of the model.

    Args:
        tensors: an adapter's weights, named as PEFT's file names them.
        adapter_config: what adapter_config.json says.
        base_norm: Frobenius norm of a module's own weights, where known.
    """
    found = []
    for name, a in tensors.items():
        if not name.endswith(_A):
            continue
        module = name.removesuffix(_A)
        b = tensors[module + _B]
        plain = module.removeprefix(_PEFT)
        values = singular_values(a, b, _scale(plain, a.shape[0], adapter_config))
        norm = math.sqrt(sum(value**2 for value in values))
        own = base_norm(plain)
        layer, part = place_of(plain)
        found.append(
            LayerDelta(
                module=plain,
                layer=layer,
                part=part,
                rank=a.shape[0],
                singular_values=tuple(values),
                norm=norm,
                relative=norm / own if own else None,
                effective_rank=effective_rank(values),
            )
        )
    return sorted(found, key=lambda one: (one.layer, one.part))


def place_of(module: str) -> tuple[int, str]:
    """Number of the block that a module of the base model stands in, and its name within it; outside of the blocks -1
    and its whole name."""
    block = _LAYER.search(module)
    return (int(block[1]), module[block.end() :]) if block else (-1, module)


def singular_values(a: Tensor, b: Tensor, scale: float) -> list[float]:
    """Of scale · B · A, the largest first, without ever making that matrix.

    Args:
        a: [r, in]
        b: [out, r]
    """
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"adapters of matrices have two axes, not {a.ndim} and {b.ndim}")
    small_b = torch.linalg.qr(b.double(), mode="r").R  # [min(out, r), r]
    small_a = torch.linalg.qr(a.double().T, mode="r").R  # [min(in, r), r]
    return [float(value) for value in scale * torch.linalg.svdvals(small_b @ small_a.T)]


def effective_rank(values: list[float]) -> float:
    """exp of the entropy of the singular values as shares; 0 when all are 0."""
    total = sum(values)
    if total <= 0:
        return 0.0
    shares = [value / total for value in values if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / r, or alpha / √r for rank-stabilised adapters."""
    alpha = next(
        (value for pattern, value in (config.get("alpha_pattern") or {}).items() if re.search(pattern, module)),
        config["lora_alpha"],
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
