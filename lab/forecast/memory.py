"""The memory a pretraining run will need, from its config, before it starts: `forecast(config)`.

A model of two and one of three layers take one real step each on fake tensors; that says everything about any number of
layers (`timeline.py`), and `lookup.py` says how few replays answer for most configs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.config import PretrainConfig, changed
from lab.forecast.bare import bare
from lab.forecast.budget import Budget, Modelled, Verdict, modelled
from lab.forecast.kinds import KINDS, Kind
from lab.forecast.lookup import What, timeline_of
from lab.forecast.rules import CPU, CUDA, Device, DeviceRules
from lab.forecast.storages import Place
from lab.forecast.timeline import Timeline
from lab.training.pretraining import EVAL_TOKENS_AT_ONCE

LOOKS: tuple[What, ...] = ("evaluation", "generation")


@dataclass(frozen=True)
class Moment:
    """The most memory within one phase."""

    phase: str
    bytes: int
    kinds: dict[Kind, int]
    """What it is spent on; adds up to `bytes`."""
    layer: int | None
    module: str
    line: str
    """The line at work, e.g. "lab/models/gpt.py:120"; in the backward pass the one whose gradient is computed."""

    @property
    def sentence(self) -> str:
        what = "computing the gradient of" if self.phase == "backward" else "at"
        where = f" in layer {self.layer}" if self.layer is not None else ""
        return f"{self.phase}{where}, {what} {self.line}"


@dataclass(frozen=True)
class CurvePoint:
    """One point of the picture of a step: the highest of its neighbours."""

    phase: str
    micro_batch: int
    layer: int | None
    line: str
    kinds: dict[Kind, int]

    @property
    def bytes(self) -> int:
        return sum(self.kinds.values())


@dataclass(frozen=True)
class MemoryForecast:
    """What a run will need. All figures in bytes."""

    config: PretrainConfig
    """With the precision that was assumed."""
    device: Device
    peak: Moment
    """Of everything: the step, evaluation and generation."""
    phases: dict[str, Moment]
    """The highest moment of each phase, in the order they happen."""
    curve: tuple[CurvePoint, ...]
    """One step: forward, backward, update. One point for each stretch within a layer or, outside of them, a file."""
    checkpoint_bytes: int
    """The copy that is written to disk while training goes on; 0 on CUDA, where it lies in the computer's memory."""
    modelled: tuple[Modelled, ...]
    """What no replay sees."""
    notes: tuple[str, ...]
    """What was assumed."""

    @property
    def peak_bytes(self) -> int:
        """Of tensors: what `torch.cuda.max_memory_allocated` would say."""
        return self.peak.bytes

    @property
    def total_bytes(self) -> int:
        """With the copy for a checkpoint and everything modelled: what the device has to have."""
        return self.peak_bytes + self.checkpoint_bytes + sum(part.bytes for part in self.modelled)

    def verdict(self, budget: Budget) -> Verdict:
        """Whether it fits. The context is on the budget's side (see `Budget.limit_bytes`)."""
        return budget.verdict(self.total_bytes - budget_side(self.modelled))

    def document(self) -> dict[str, Any]:
        """As JSON values, for `lab estimate --json`."""
        return {
            "peak_bytes": self.peak_bytes,
            "total_bytes": self.total_bytes,
            "device": self.device,
            "peak": {"phase": self.peak.phase, "layer": self.peak.layer, "line": self.peak.line},
            "breakdown": {kind: size for kind, size in self.peak.kinds.items() if size},
            "phases": {name: moment.bytes for name, moment in self.phases.items()},
            "checkpoint_bytes": self.checkpoint_bytes,
            "modelled": {part.name: part.bytes for part in self.modelled},
            "notes": list(self.notes),
        }


def budget_side(parts: tuple[Modelled, ...]) -> int:
    """The modelled bytes that `Budget.limit_bytes` has taken off already."""
    return sum(part.bytes for part in parts if part.name in ("context", "process"))


def forecast(config: PretrainConfig, device: Device | None = None) -> MemoryForecast:
    """The memory that training `config` needs.

    Args:
        device: None takes the one that the run would get here. "cuda" needs no GPU.
    """
    device = device or device_of(config)
    notes = [] if device == "cpu" else ["Computed for CUDA, not yet measured on one."]
    if config.compute.precision != "auto":
        return _forecast(config, device, tuple(notes))
    notes.append(
        "Precision is decided by a measurement when the run starts; this is for the one that needs more memory."
    )
    both = [_forecast(changed(config, precision=name), device, tuple(notes)) for name in ("fp32", "bf16")]
    return max(both, key=lambda one: one.peak_bytes)


def peak_bytes(config: PretrainConfig, device: Device | None = None) -> int:
    """Only the need for tensors, workspace and copy: what `Budget.limit_bytes` is compared with."""
    found = forecast(config, device)
    return found.total_bytes - budget_side(found.modelled)


def device_of(config: PretrainConfig) -> Device:
    """Whose rules apply to a run of `config` here."""
    if config.compute.device != "auto":
        return "cuda" if config.compute.device == "cuda" else "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def step_timeline(config: PretrainConfig, device: Device) -> Timeline:
    """The curve of one step. Precision must be named."""
    bared = bare(config)
    train = bared.train.model_copy(update={"eval_tokens": None, "sample_tokens": 0})  # of no step
    return timeline_of(bared.model_copy(update={"train": train}), _rules(device), "step")


# -- inside -----------------------------------------------------------------------------------------------


def _forecast(config: PretrainConfig, device: Device, notes: tuple[str, ...]) -> MemoryForecast:
    step = step_timeline(config, device)
    phases = {name: highest(step, name) for name in ("forward", "backward", "update")}
    optimizer = int(step.live[0, KINDS.index("optimizer")])
    for look in LOOKS:
        found = highest(timeline_of(_in_eval(bare(config), look), _rules(device), look), look)
        phases[look] = _with_optimizer(found, optimizer)
    peak = max(phases.values(), key=lambda moment: moment.bytes)
    return MemoryForecast(
        config=config,
        device=device,
        peak=peak,
        phases=phases,
        curve=curve_of(step),
        checkpoint_bytes=int(step.live[-1, KINDS.index("checkpoint_copy")]),
        modelled=modelled(device, peak.bytes),
        notes=notes,
    )


def _rules(device: Device) -> DeviceRules:
    return CUDA if device == "cuda" else CPU


def _in_eval(config: PretrainConfig, look: What) -> PretrainConfig:
    """What matters when nothing trains: no optimizer, no dropout, and for the validation loss a batch of its own."""
    model, train, compute = config.model, config.train, config.compute
    batch, sample = 1, train.sample_tokens
    if look == "evaluation":
        sample = 0
        batch = max(train.batch_size, EVAL_TOKENS_AT_ONCE // model.context_length)
        if train.eval_tokens is not None:
            batch = min(batch, max(1, train.eval_tokens // model.context_length))
    return PretrainConfig(
        model=model.model_copy(update={"drop_rate": 0.0, "attention_drop_rate": 0.0}),
        train=train.model_copy(
            update={"batch_size": batch, "grad_accum_steps": 1, "eval_tokens": None, "sample_tokens": sample}
        ),
        compute=compute.model_copy(update={"gradient_checkpointing": False}),
    )


def highest(timeline: Timeline, phase: str) -> Moment:
    """The most memory within one phase."""
    numbers = [number for number, place in enumerate(timeline.places) if place.phase == phase]
    total = timeline.total
    top = max(numbers, key=lambda number: total[number])
    place = timeline.places[top]
    return Moment(phase, int(total[top]), _kinds(timeline.live[top]), place.layer, place.module, _line(place))


def _with_optimizer(moment: Moment, optimizer: int) -> Moment:
    """Looks are replayed without an optimizer; its state is there all the same."""
    kinds = {**moment.kinds, "optimizer": optimizer}
    return Moment(moment.phase, moment.bytes + optimizer, kinds, moment.layer, moment.module, moment.line)


def curve_of(timeline: Timeline) -> tuple[CurvePoint, ...]:
    """The highest moment of each stretch that lies in one layer; outside of the layers in one file."""
    points: list[CurvePoint] = []
    last, best = None, -1
    total = timeline.total
    for number, place in enumerate(timeline.places):
        if place.phase == "checkpoint":  # happens beside the steps
            continue
        key = (
            place.phase,
            place.micro_batch,
            place.layer,
            None if place.layer is not None or place.site is None else place.site.file,
        )
        if key == last and total[number] <= best:
            continue
        point = CurvePoint(place.phase, place.micro_batch, place.layer, _line(place), _kinds(timeline.live[number]))
        if key == last:
            points[-1] = point
        else:
            points.append(point)
        last, best = key, total[number]
    return tuple(points)


def _kinds(row: np.ndarray) -> dict[Kind, int]:
    return {kind: int(size) for kind, size in zip(KINDS, row, strict=True)}


def _line(place: Place) -> str:
    return str(place.site) if place.site is not None else ""
