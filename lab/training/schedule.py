"""The learning rate as a pure function of the update's number, so that a resumed run needs no state for it."""

import math

from lab.config import OptimConfig

WARMUP_SHARE = 20
"""Without a warm-up of its own, a run warms up over one step in this many …"""
WARMUP_MOST = 100
"""… but never more than this many steps."""


def learning_rate_at(update: int, optim: OptimConfig, total_steps: int | None) -> float:
    """The learning rate of update number `update`, counted from 0.

    Linear warm-up to the full rate, which the last warm-up step has in full; then a half cosine that reaches
    `min_lr_ratio` at the last update of the horizon and stays there (Loshchilov & Hutter 2017, without
    restarts).

    Args:
        total_steps: the run's length; None while a budget in minutes is still being measured.
    """
    peak = optim.learning_rate
    horizon = optim.schedule_steps or total_steps
    warmup = warmup_steps(optim, horizon)
    if update < warmup:
        return peak * (update + 1) / warmup
    if optim.schedule == "constant" or horizon is None:
        return peak
    progress = min(1.0, (update - warmup) / max(1, horizon - 1 - warmup))
    floor = peak * optim.min_lr_ratio
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_steps(optim: OptimConfig, horizon: int | None) -> int:
    """The warm-up in steps, with the default filled in."""
    if optim.warmup_steps is not None:
        return optim.warmup_steps
    return WARMUP_MOST if horizon is None else min(WARMUP_MOST, horizon // WARMUP_SHARE)
