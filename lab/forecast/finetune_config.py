"""The memory that a fine-tuning run will need, from its config: `finetune_need(config)`.

The step alone is forecast. Evaluation keeps no activations and reads the same rows, and an answer is written one token
at a time, so neither takes more.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from lab.config import FineTuneConfig, RunConfig, changed
from lab.errors import ConfigError
from lab.finetuning.base import find_base
from lab.forecast.budget import CUDA_CONTEXT, Budget, Modelled, Verdict, free_memory, modelled, this_device
from lab.forecast.finetune import AdapterTraining, step_timeline
from lab.forecast.kinds import KINDS, Kind
from lab.forecast.memory import budget_side
from lab.forecast.rules import Device
from lab.forecast.tracked import TrackedStep, tracked
from lab.rundir import RunDir
from lab.training.memory import Change, Foreseen, TooLargeError, gib
from lab.training.trainer import Trainer

_SHORTEST = 64  # tokens: below that an advice helps nobody


@dataclass(frozen=True)
class FineTuneNeed:
    """What a run's step will need. All figures in bytes."""

    device: Device
    peak_bytes: int
    """Of tensors."""
    kinds: dict[Kind, int]
    """What the peak is spent on; adds up to it."""
    phase: str
    """forward, backward or update: where the peak is."""
    modelled: tuple[Modelled, ...]
    """What no replay sees."""
    length: int
    """Tokens of a row, as assumed."""

    @property
    def total_bytes(self) -> int:
        return self.peak_bytes + sum(part.bytes for part in self.modelled)

    def verdict(self, budget: Budget) -> Verdict:
        """Whether it fits."""
        return budget.verdict(self.total_bytes - budget_side(self.modelled))


def finetune_need(config: FineTuneConfig, device: Device, *, longest: int | None = None) -> FineTuneNeed | None:
    """The memory of a step.

    Args:
        device: "cuda" needs no GPU.
        longest: tokens of the longest row; None takes `max_length`.

    Returns:
        None where no replay knows the step: all weights training, 8-bit weights, DoRA, a GPT of the lab, the manual
        attention; and where the base is not on this machine.

    Raises:
        LabError: the model is named wrongly.
    """
    model, compute = config.model, config.compute
    if model.method not in ("lora", "qlora") or model.dora:
        return None
    base = find_base(model.model)
    if base.run is not None:
        return None
    from transformers import AutoConfig

    length = config.data.max_length
    if longest is not None and not config.data.packing:
        length = min(length, longest)
    training = AdapterTraining(
        batch_size=config.train.batch_size,
        length=length,
        grad_accum_steps=config.train.grad_accum_steps,
        rank=model.rank,
        quantised=model.method == "qlora",
        optimizer=config.optim.optimizer,
        precision="bf16" if compute.precision == "auto" else compute.precision,
        gradient_checkpointing=compute.gradient_checkpointing,
        attention="sdpa" if compute.attention_impl == "sdpa" else "eager",
        target_modules=model.target_modules,
    )
    found = step_timeline(AutoConfig.from_pretrained(base.folder, local_files_only=True), training, device)
    kinds = {kind: int(size) for kind, size in zip(KINDS, found.live[found.peak], strict=True)}
    peak = found.peak_bytes
    return FineTuneNeed(device, peak, kinds, found.places[found.peak].phase, modelled(device, peak), length)


class FineTuneAdviser:
    """For `train_run`: see `lab.training.memory.Adviser`.

    Args:
        run: whose rows were read, so that their length is known.
    """

    def __init__(self, run: RunDir):
        self.run = run

    def foresee(self, config: RunConfig) -> Foreseen | None:
        """
        Raises:
            TooLargeError: on a CPU, when not even swapping would make room.
        """
        assert isinstance(config, FineTuneConfig)
        device: Device = "cuda" if config.compute.device == "cuda" else "cpu"
        need = finetune_need(config, device, longest=self._longest())
        if need is None:
            return None
        if device == "cpu":
            free, most = free_memory()
            if need.peak_bytes > most:
                raise TooLargeError(
                    f"the run needs about {gib(need.peak_bytes)}, and this computer has no more than {gib(most)} left.",
                    most,
                )
        else:
            initialised = torch.cuda.is_initialized()
            free = torch.cuda.mem_get_info()[0] if initialised else this_device(device).total_bytes - CUDA_CONTEXT
        is_followed = device == "cpu" and config.model.method == "lora"
        found = Foreseen(need.peak_bytes, step_bytes=need.peak_bytes if is_followed else None)
        if need.peak_bytes <= free:
            return found
        said = f"This run needs about {gib(need.peak_bytes)} at its peak, and {gib(free)} are free now."
        return replace(found, warning=said)

    def follow(self, trainer: Trainer) -> AbstractContextManager[TrackedStep]:
        """On a CPU each tensor of the step, beside weights that are not packed; else nothing."""
        config = trainer.config
        is_plain = isinstance(config, FineTuneConfig) and config.model.method == "lora"
        return tracked(trainer) if is_plain and trainer.task.device.type == "cpu" else nullcontext(TrackedStep())

    def out_of_memory(self, config: RunConfig, limit_bytes: int) -> Sequence[Change]:
        """The first change of each kind that fits, the one that costs least first."""
        assert isinstance(config, FineTuneConfig)
        device: Device = "cuda" if config.compute.device == "cuda" else "cpu"
        found = []
        for values, sentence in _savings(config):
            try:
                need = finetune_need(changed(config, **values), device, longest=self._longest())
            except ConfigError:
                continue
            if need is not None and need.verdict(Budget("what is free", device, limit_bytes)).fits:
                found.append(Change(values, f"{sentence} ({gib(need.peak_bytes)})"))
        return found[:3]

    def _longest(self) -> int | None:
        data = self.run.info().get("resolved", {}).get("data", {})
        return data.get("longest")


def _savings(config: FineTuneConfig) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes that save memory and keep what is learnt, then those that do not."""
    if not config.compute.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, "gradient checkpointing, for a third more time"
    batch, parts = config.train.batch_size, config.train.grad_accum_steps
    while batch > 1 and batch % 2 == 0:
        batch, parts = batch // 2, parts * 2
        yield {"batch_size": batch, "grad_accum_steps": parts}, f"a batch of {batch} accumulated {parts} times"
        yield (
            {"batch_size": batch, "grad_accum_steps": parts, "gradient_checkpointing": True},
            f"a batch of {batch} accumulated {parts} times with gradient checkpointing",
        )
    if config.model.method == "lora":
        yield {"method": "qlora"}, "weights in 4 bits (qlora)"
        yield {"method": "qlora", "gradient_checkpointing": True}, "qlora with gradient checkpointing"
    length = config.data.max_length
    while length // 2 >= _SHORTEST:
        length //= 2
        yield {"max_length": length, "gradient_checkpointing": True}, f"rows of at most {length} tokens"
