"""What would fit: settings for a run that is too large, and how far each number can grow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from lab.config import PretrainConfig, changed, flat
from lab.forecast.budget import Budget
from lab.forecast.memory import forecast, peak_bytes
from lab.forecast.rules import GIB, Device

SLOWDOWN: dict[tuple[str, Any], float] = {
    ("attention_impl", "sdpa"): 0.9,
    ("precision", "bf16"): 0.6,
    ("optimizer", "adamw_8bit"): 1.02,
    ("gradient_checkpointing", True): 1.33,
}
"""How many times as long a step takes, roughly, on a GPU: checkpointing computes the forward pass twice, a third of a
step's arithmetic; bf16 is at least twice as fast in the products. They order the answers and promise nothing."""

CPU_SLOWDOWN = {("precision", "bf16"): 1.1, ("optimizer", "adamw_8bit"): 1.3}
"""Where a CPU differs: bf16 is slower without instructions for it, and so is unpacking 8-bit state."""

HALVING = 1.06
"""Each time a micro-batch is halved and accumulation doubled: the same arithmetic in smaller, less efficient pieces."""

_REASONS = {
    ("attention_impl", "sdpa"): "the fused attention kernel: no context × context matrix is kept",
    ("precision", "bf16"): "bf16: activations of half the size",
    ("optimizer", "adamw_8bit"): "8-bit AdamW: a quarter of the optimizer's memory",
    ("gradient_checkpointing", True): "gradient checkpointing: the inside of each block is computed again",
}


@dataclass(frozen=True)
class Saving:
    """What one knob alone would save."""

    knob: str
    value: Any
    reason: str
    saves_bytes: int
    """Of the need; negative: it would need more."""
    slowdown: float
    """Time of a step relative to now, roughly."""

    @property
    def sentence(self) -> str:
        verb = "saves" if self.saves_bytes >= 0 else "costs"
        return f"{self.reason} {verb} {abs(self.saves_bytes) / GIB:.2f} GiB"


@dataclass(frozen=True)
class FitOption:
    """Settings that fit."""

    changes: dict[str, Any]
    """Knob -> value; empty when the config fits as it is."""
    reasons: tuple[str, ...]
    peak_bytes: int
    margin_bytes: int
    slowdown: float
    same_learning: bool
    """Whether the loss curve stays the same up to rounding; a shorter context is another task."""

    @property
    def sentence(self) -> str:
        pace = f"about {self.slowdown:.2g} × the time per step"
        what = "; ".join(self.reasons) or "as it is"
        return f"{what} ({pace}, {self.margin_bytes / GIB:.1f} GiB to spare)"


def savings(config: PretrainConfig, device: Device) -> list[Saving]:
    """What each memory knob alone would change, the largest saving first."""
    now = peak_bytes(config, device)
    found = []
    for changes, reason in _single_changes(config):
        ((knob, value),) = [item for item in changes.items() if item[0] != "grad_accum_steps"]
        saved = now - peak_bytes(changed(config, **changes), device)
        found.append(Saving(knob, value, reason, saved, _slowdown(changes, config, device)))
    return sorted(found, key=lambda saving: -saving.saves_bytes)


def fit(config: PretrainConfig, budget: Budget, *, wanted: int = 3) -> list[FitOption]:
    """The settings nearest to `config` that fit, the fastest first; empty when even the smallest do not.

    The effective batch stays: a smaller micro-batch is made up by accumulation. Only if nothing else fits is the
    context shortened, since that changes what is learned.
    """
    limit, device = budget.limit_bytes, budget.device
    options = _fitting(config, limit, device, wanted)
    context = config.model.context_length
    while not options and context >= 64:
        context //= 2
        shorter = changed(config, context_length=context, stride=None)
        for option in _fitting(shorter, limit, device, 1):
            changes = {**option.changes, "context_length": context, "stride": None}
            reasons = (*option.reasons, f"a context of {context:,}")
            options.append(replace(option, changes=changes, reasons=reasons, same_learning=False))
    return options


def largest(config: PretrainConfig, knob: str, budget: Budget, *, most: int = 65_536) -> int | None:
    """The largest value of batch_size, context_length or n_layers that fits; None when not even the smallest does.

    Memory only grows with each of these (a tested claim), so the search is by halves.
    """

    def fits(value: int) -> bool:
        values = {knob: value, "stride": None} if knob == "context_length" else {knob: value}
        return peak_bytes(changed(config, **values), budget.device) <= budget.limit_bytes

    return _last_true(fits, smallest=2 if knob == "context_length" else 1, most=most)


def out_of_memory_advice(
    config: PretrainConfig, device: Device, limit_bytes: int, *, wanted: int = 3
) -> list[FitOption]:
    """After a run had too little memory: changes that would fit in `limit_bytes` of tensors, the fastest first."""
    options = _fitting(config, limit_bytes, device, wanted + 1)
    return [option for option in options if option.changes][:wanted]


# -- inside -----------------------------------------------------------------------------------------------

_Combination = tuple[float, dict[str, Any], tuple[str, ...]]


def _last_true(holds: Callable[[int], bool], *, smallest: int, most: int) -> int | None:
    if not holds(smallest):
        return None
    low, high = smallest, smallest * 2
    while high <= most and holds(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > max(1, low // 64):  # within 2 %: nobody sets a batch of 1,013
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _single_changes(config: PretrainConfig) -> Iterator[tuple[dict[str, Any], str]]:
    values = flat(config)
    for (knob, value), reason in _REASONS.items():
        if values[knob] != value:
            yield {knob: value}, reason
    if config.train.batch_size > 1:
        yield _smaller_batch(config, config.train.batch_size // 2)
    if not config.model.tie_embeddings:
        yield {"tie_embeddings": True}, "one matrix for embedding and output layer"
    if config.model.context_length >= 64:
        half = config.model.context_length // 2
        yield {"context_length": half}, f"a context of {half:,}"


def _smaller_batch(config: PretrainConfig, batch: int) -> tuple[dict[str, Any], str]:
    train = config.train
    steps = -(-train.batch_size * train.grad_accum_steps // batch)
    return {"batch_size": batch, "grad_accum_steps": steps}, f"micro-batches of {batch:,}, {steps:,} to a step"


def _combinations(config: PretrainConfig, device: Device) -> list[_Combination]:
    """Everything that could be changed without changing what is learned, the fastest first."""
    values = flat(config)
    knobs = [choice for choice in _REASONS if values[choice[0]] != choice[1]]
    if config.compute.device == "mps" or (device == "cpu" and values["precision"] == "auto"):
        knobs = [choice for choice in knobs if choice[0] != "precision"]
    batches, size = [config.train.batch_size], config.train.batch_size
    while size > 1:
        size //= 2
        batches.append(size)
    found: list[_Combination] = []
    for batch, *taken in product(batches, *[(False, True)] * len(knobs)):
        changes: dict[str, Any] = {knob: value for (knob, value), is_on in zip(knobs, taken, strict=True) if is_on}
        reasons = [_REASONS[choice] for choice, is_on in zip(knobs, taken, strict=True) if is_on]
        if batch != config.train.batch_size:
            smaller, reason = _smaller_batch(config, batch)
            changes |= smaller
            reasons.append(reason)
        found.append((_slowdown(changes, config, device), changes, tuple(reasons)))
    # Of equal pace the one that changes least.
    return sorted(found, key=lambda one: (one[0], len(one[1])))


def _slowdown(changes: dict[str, Any], config: PretrainConfig, device: Device) -> float:
    factor = 1.0
    for choice in changes.items():
        on_cpu = CPU_SLOWDOWN.get(choice) if device == "cpu" else None
        factor *= on_cpu or SLOWDOWN.get(choice, 1.0)
    if "grad_accum_steps" in changes:
        halvings, size = 0, config.train.batch_size
        while size > changes["batch_size"]:
            size //= 2
            halvings += 1
        factor *= HALVING**halvings
    return factor


def _fitting(config: PretrainConfig, limit: int, device: Device, wanted: int) -> list[FitOption]:
    combinations = _combinations(config, device)
    smallest = max(combinations, key=lambda one: len(one[1]))  # every saving, micro-batches of 1
    if peak_bytes(changed(config, **smallest[1]), device) > limit:
        return []
    found: list[FitOption] = []
    for slowdown, changes, reasons in combinations:
        if any(_does_more(changes, option.changes) for option in found):
            continue
        need = peak_bytes(candidate := changed(config, **changes), device)
        if need <= limit:
            peak = forecast(candidate, device).peak_bytes
            found.append(FitOption(changes, reasons, peak, limit - need, slowdown, same_learning=True))
            if len(found) == wanted:
                break
    return found


def _does_more(changes: dict[str, Any], than: dict[str, Any]) -> bool:
    """Whether these changes hold all of those, and a batch at most as large: pointless if those fit already."""
    rest = {knob: value for knob, value in than.items() if knob not in ("batch_size", "grad_accum_steps")}
    if not rest.items() <= changes.items():
        return False
    return "batch_size" not in than or changes.get("batch_size", 1 << 62) <= than["batch_size"]
