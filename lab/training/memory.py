"""Memory while training: how much a run has taken at most, and what to say when there is too little.

What a run *will* need is known one layer above, in `lab.forecast`, which replays the step of this layer. Whoever starts
a run may hand `train_run` an `Adviser` from there.
"""

import resource
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import torch
from torch import nn

from lab.config import RunConfig
from lab.errors import TrainingError

if TYPE_CHECKING:
    from lab.training.trainer import Trainer

GIB = 2**30

_PHASES = {
    "evaluate": "evaluation",
    "samples": "generation",
    "_run_probes": "evaluation",
    "snapshot": "checkpoint",
    "finish": "checkpoint",
    "loss_sum": "forward",
    "backward": "backward",
    "_update": "update",
}
"""A function on the stack, and the phase of training that it is."""

_SENTENCES = ("not enough memory: you tried to allocate", "can't allocate memory", "cannot allocate memory")
"""How PyTorch's CPU allocator says it, in a plain RuntimeError."""


@dataclass(frozen=True)
class Change:
    """Settings that would fit where a run did not."""

    changes: dict[str, Any]
    """Knob -> value."""
    sentence: str


@dataclass(frozen=True)
class Foreseen:
    """What is known of a run's memory before its first step."""

    needed_bytes: int
    """By the run itself, beyond the process that it runs in: tensors, and on a CPU the copy for a checkpoint."""
    warning: str = ""
    """Why it may not work out; empty when it fits."""
    step_bytes: int | None = None
    """By the tensors of one training step, where `Adviser.follow` measures that; else None."""
    reserved_bytes: int | None = None
    """What the device's allocator will hold, gaps and all; None on a CPU."""
    curve: Sequence[Mapping[str, Any]] = ()
    """The forecast step, point by point: phase, layer, line and kinds."""


class Followed(Protocol):
    """One real step, once it has been taken."""

    @property
    def peak_bytes(self) -> int | None:
        """The most that its tensors held; None where that cannot be followed."""

    @property
    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Point by point, as in `Foreseen`."""


class TooLargeError(TrainingError):
    """This machine cannot hold the run; trying would end the process."""

    def __init__(self, sentence: str, limit_bytes: int):
        super().__init__(sentence)
        self.limit_bytes = limit_bytes
        """What there is for tensors."""


class Adviser(Protocol):
    """Knows the memory of a run in advance."""

    def foresee(self, config: RunConfig) -> Foreseen | None:
        """Before the first step; None where nobody knows. `config` has its device and precision.

        Raises:
            TooLargeError: the machine cannot hold this run.
        """

    def follow(self, trainer: "Trainer") -> AbstractContextManager[Followed]:
        """Within this the trainer takes one real step."""

    def out_of_memory(self, config: RunConfig, limit_bytes: int) -> Sequence[Change]:
        """After it did not fit: changes that would, into `limit_bytes` of tensors; the fastest first."""


@dataclass
class MemoryWatch:
    """The most memory that a run has taken since this was made.

    On CUDA what PyTorch's allocator handed out at most. On a CPU the growth of the process' resident memory: the
    kernel keeps its highest value, which is set back here. Whatever else the process does in that time counts too.
    """

    device: torch.device
    _before: int = field(init=False)
    _has_mark: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._before = _resident()
        self.forget_peak()

    def forget_peak(self) -> None:
        """From here on: what came before was no training."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):  # not Linux, or not allowed
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): set the peak resident memory back
            self._has_mark = True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What grows within this is not the run's."""
        before = _resident()
        yield
        self._before += _resident() - before

    def peak_bytes(self) -> int | None:
        """None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        mark = _highest_resident() if self._has_mark else None
        return None if mark is None else max(0, mark - self._before)

    def reserved_bytes(self) -> int | None:
        """The most that CUDA's allocator held; None on a CPU."""
        return torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else None

    @property
    def before_bytes(self) -> int:
        """What the process had before this run; nothing on CUDA, where only tensors are counted."""
        return 0 if self.device.type == "cuda" else self._before

    def limit_bytes(self) -> int:
        """What this run could have for its tensors: what it holds now, and what is still free."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return free + torch.cuda.memory_reserved(self.device)
        process = psutil.Process().memory_info()
        free = psutil.virtual_memory().available
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free = min(free, most - process.vms)
        return max(0, process.rss - self._before) + max(0, free)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory: each allocator says so in its own way."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sentence in str(error) for sentence in _SENTENCES)


def phase_of(trace: TracebackType | None) -> str:
    """What the training was at when an error came: forward, backward, update, evaluation, generation, checkpoint; else
    set-up. The outermost function that says so counts: an evaluation has forward passes of its own."""
    for frame in traceback.extract_tb(trace):
        if frame.name in _PHASES:
            return _PHASES[frame.name]
    return "set-up"


def let_go(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give back all memory of a training that cannot go on, so that there is some to save its state with.

    The weights in memory are of no more use: an update that broke off may have changed some and others not.
    """
    optimizer.state.clear()
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gib(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def as_documents(changes: Sequence[Change]) -> list[Mapping[str, Any]]:
    """For run.json, where the page finds them."""
    return [{"changes": change.changes, "sentence": change.sentence} for change in changes]


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _highest_resident() -> int | None:
    """Bytes; the kernel's high-water mark of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
