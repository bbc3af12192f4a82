"""The memory that a fine-tuning run will need, from its config: `finetune_need(config)`.

The step is replayed, and with it the copy for a checkpoint. Evaluation keeps no activations and reads the same rows,
and an answer is written one token at a time, so neither takes more.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lab.config import FineTuneConfig, RunConfig, changed
from lab.errors import ConfigError, ModelError
from lab.finetuning.base import find_base, find_pulled, gpt_shape
from lab.finetuning.batches import Extent
from lab.forecast.adviser import PROVEN_TOO_MUCH
from lab.forecast.budget import CUDA_CONTEXT, Budget, Modelled, Verdict, free_memory, modelled, this_device
from lab.forecast.finetune import all_learnt, step_timeline
from lab.forecast.kinds import KINDS, Kind
from lab.forecast.memory import CurvePoint, Moment, budget_side, curve_of, highest
from lab.forecast.rules import Device
from lab.forecast.tracked import TrackedStep, documents, tracked
from lab.forecast.unfilled import HFShape, Shape
from lab.rundir import RunDir
from lab.sessions.opening import run_of
from lab.training.memory import Change, Foreseen, TooLargeError, gib
from lab.training.trainer import Trainer

_SHORTEST = 64  # tokens: below that an advice helps nobody


@dataclass(frozen=True)
class FineTuneNeed:
    """What a run's step will need. All figures in bytes."""

    device: Device
    peak: Moment
    """Of tensors."""
    phases: dict[str, Moment]
    """The highest moment of forward, backward and update."""
    curve: tuple[CurvePoint, ...]
    checkpoint_bytes: int
    """The copy that is written to disk while training goes on; 0 on CUDA, where it lies in the computer's memory."""
    modelled: tuple[Modelled, ...]
    """What no replay sees."""
    extent: Extent
    """Of a sequence, as assumed."""
    notes: tuple[str, ...]
    """What was assumed besides."""

    @property
    def peak_bytes(self) -> int:
        return self.peak.bytes

    @property
    def kinds(self) -> dict[Kind, int]:
        """What the peak is spent on; adds up to it."""
        return self.peak.kinds

    @property
    def total_bytes(self) -> int:
        return self.peak_bytes + self.checkpoint_bytes + sum(part.bytes for part in self.modelled)

    @property
    def limited_bytes(self) -> int:
        """What `Budget.limit_bytes` is compared with: all but context and process."""
        return self.total_bytes - budget_side(self.modelled)

    def verdict(self, budget: Budget) -> Verdict:
        """Whether it fits."""
        return budget.verdict(self.limited_bytes)


def finetune_need(config: FineTuneConfig, device: Device, extent: Extent | None = None) -> FineTuneNeed:
    """The memory of a step, whatever the method.

    Args:
        device: "cuda" needs no GPU.
        extent: of the rows; None takes rows of `max_length` of which every token is learnt.

    Raises:
        LabError: no training could start either: the model is named wrongly or not on this machine, transformers does
            not know it, or it cannot be stored as the method asks. Or its step cannot be replayed without its weights.
    """
    shape = _shape(config)
    longest, extent = config.data.max_length, extent or all_learnt(config.data.max_length)
    extent = Extent(min(longest, extent.tokens), min(max(1, longest - 1), extent.labels))
    notes = [] if device == "cpu" else ["Computed for CUDA, not yet measured on one."]
    if config.model.mode == "fast":
        notes.append("This is for the compatible mode; the fused kernels of the fast one need less.")
    if config.compute.precision != "auto":
        return _need(shape, config, extent, device, notes)
    if device == "cuda" or config.model.method == "qlora":
        return _need(shape, changed(config, precision="bf16"), extent, device, [*notes, "In bf16, as a run chooses."])
    notes.append("Precision is measured when the run starts; this is for the one that needs more memory.")
    # A frozen base is kept in the precision of the training, so beside adapters fp32 always needs more.
    names = ("fp32",) if config.model.method == "lora" else ("fp32", "bf16")
    both = [_need(shape, changed(config, precision=name), extent, device, notes) for name in names]
    return max(both, key=lambda one: one.total_bytes)


def _need(shape: Shape, config: FineTuneConfig, extent: Extent, device: Device, notes: Sequence[str]) -> FineTuneNeed:
    try:
        found = step_timeline(shape, config, extent, device)
    except RuntimeError as error:  # from torch, where an operation needs numbers: experts are chosen by them
        raise ModelError(
            f"A step of {config.model.model} cannot be replayed without its weights ({str(error).splitlines()[0]}), so "
            "its memory is known only when it runs."
        ) from error
    phases = {name: highest(found, name) for name in ("forward", "backward", "update")}
    peak = max(phases.values(), key=lambda moment: moment.bytes)
    return FineTuneNeed(
        device=device,
        peak=peak,
        phases=phases,
        curve=curve_of(found),
        checkpoint_bytes=int(found.live[-1, KINDS.index("checkpoint_copy")]),
        modelled=modelled(device, peak.bytes),
        extent=extent,
        notes=tuple(notes),
    )


def _shape(config: FineTuneConfig) -> Shape:
    ref = config.model.model
    if run_of(ref) is not None:
        return gpt_shape(find_base(ref), config)
    name, folder = find_pulled(ref)
    return _described(name, folder, (folder / "config.json").stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _described(name: str, folder: Path, changed_ns: int) -> Shape:
    from transformers import AutoConfig

    described = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not (hasattr(described, "num_hidden_layers") and hasattr(described, "vocab_size")):
        raise ModelError(f"{name} is more than a language model, so its memory is not known in advance.")
    return HFShape.of(described)


def what_fits(config: FineTuneConfig, device: Device, extent: Extent | None, limit_bytes: int) -> list[Change]:
    """Up to three changes that fit in `limit_bytes`, the one that costs least first.

    Raises:
        LabError: as `finetune_need`.
    """
    found: list[Change] = []
    for values, sentence in _savings(config):
        try:
            need = finetune_need(changed(config, **values), device, extent)
        except (ConfigError, ModelError):
            continue  # such as 4 bits of a GPT of the lab
        if need.limited_bytes <= limit_bytes:
            found.append(Change(values, f"{sentence} ({gib(need.total_bytes)})"))
        if len(found) == 3:
            break
    return found


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
        try:
            need = finetune_need(config, device, self._extent())
        except ModelError:  # the model is loaded already, so it can be trained: only nobody knows what it takes
            return None
        needed = need.peak_bytes + need.checkpoint_bytes
        if device == "cpu":
            free, most = free_memory()
            if needed > most:
                raise TooLargeError(
                    f"the run needs about {gib(needed)}, and this computer has no more than {gib(most)} left.",
                    most,
                )
        else:
            initialised = torch.cuda.is_initialized()
            free = torch.cuda.mem_get_info()[0] if initialised else this_device(device).total_bytes - CUDA_CONTEXT
        found = Foreseen(needed, step_bytes=need.peak_bytes if device == "cpu" else None, curve=documents(need.curve))
        if needed <= free:
            return found
        said = f"This run needs about {gib(needed)} at its peak, and {gib(free)} are free now."
        return replace(found, warning=said)

    def follow(self, trainer: Trainer) -> AbstractContextManager[TrackedStep]:
        """On a CPU each tensor of the step; a GPU's allocator counts by itself."""
        return tracked(trainer) if trainer.task.device.type == "cpu" else nullcontext(TrackedStep())

    def out_of_memory(self, config: RunConfig, limit_bytes: int) -> Sequence[Change]:
        assert isinstance(config, FineTuneConfig)
        device: Device = "cuda" if config.compute.device == "cuda" else "cpu"
        extent = self._extent()
        proven = PROVEN_TOO_MUCH * finetune_need(config, device, extent).limited_bytes
        return what_fits(config, device, extent, min(limit_bytes, round(proven)))

    def _extent(self) -> Extent | None:
        found = self.run.info().get("resolved", {}).get("extent")
        return Extent(**found) if found else None


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
    if config.model.method == "full":
        yield {"method": "lora"}, "only adapters learn (lora)"
    elif config.model.method != "qlora":
        yield {"method": "qlora"}, "weights in 4 bits (qlora)"
        yield {"method": "qlora", "gradient_checkpointing": True}, "qlora with gradient checkpointing"
    length = config.data.max_length
    while length // 2 >= _SHORTEST:
        length //= 2
        yield {"max_length": length, "gradient_checkpointing": True}, f"rows of at most {length} tokens"
