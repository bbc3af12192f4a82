"""AdamW, in 32 or 8 bits, with weight decay on matrices only."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lab.config import OptimConfig
from lab.errors import ConfigError

EPSILON = 1e-8


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with decay, the rest without.

    Decay pulls a weight towards 0, which says "no connection". A norm's scale has no reason to be 0, and
    pulling at a bias only fights the data.
    """
    trainable = [parameter for _, parameter in named if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that `optim` asks for, over everything in `model` that trains.

    A paged optimizer moves its state out of a full GPU; anywhere else it is the plain 8-bit one.

    Raises:
        ConfigError: 8-bit AdamW without bitsandbytes.
    """
    groups = [group for group in parameter_groups(model.named_parameters(), optim.weight_decay) if group["params"]]
    settings: dict[str, Any] = {
        "lr": optim.learning_rate,
        "betas": (optim.beta1, optim.beta2),
        "eps": EPSILON,
    }
    if optim.optimizer != "adamw":
        try:
            from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit
        except ImportError as error:
            raise ConfigError(
                [f"optimizer {optim.optimizer} needs bitsandbytes, which does not load here ({error}); choose adamw."]
            ) from error
        is_paged = optim.optimizer.startswith("paged") and next(model.parameters()).device.type == "cuda"
        return (PagedAdamW8bit if is_paged else AdamW8bit)(groups, **settings)
    return torch.optim.AdamW(groups, fused=has_fused(model), **settings)


def has_fused(model: nn.Module) -> bool:
    """Whether torch has one kernel that updates all parameters on this model's device."""
    return next(model.parameters()).device.type in {"cpu", "cuda", "mps"}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
