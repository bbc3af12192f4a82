"""What the trainer asks of the parts it is given. Pretraining and fine-tuning differ in these parts only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lab.config import RunConfig
from lab.data.batches import MicroBatch
from lab.training.dropout import DropoutClock
from lab.training.precision import Precision

Row = dict[str, Any]
Probe = Callable[[nn.Module, int], tuple[str, list[Row]]]
"""Called at each evaluation with the model (eval mode, no gradients) and the step; returns a table and rows."""


class Task(Protocol):
    """What a kind of training is: pretraining and fine-tuning differ here, and in their batches."""

    @property
    def model(self) -> nn.Module: ...

    device: torch.device
    precision: Precision
    dropout_clock: DropoutClock
    flops_per_token: int

    def loss_sum(self, batch: MicroBatch) -> Tensor: ...
    def evaluate(self, stop: Callable[[], bool]) -> dict[str, float] | None: ...
    def samples(self, step: int, stop: Callable[[], bool]) -> list[Row]: ...


class Batches(Protocol):
    """Whole optimizer steps, without end."""

    steps_per_epoch: float

    def next_step(self) -> list[MicroBatch]: ...
    def state(self) -> dict[str, int]: ...
    def load_state(self, state: Mapping[str, int]) -> None: ...


class Say(Protocol):
    """Records an event: level, kind, and the sentence."""

    def __call__(self, level: str, kind: str, message: str) -> None: ...


class Job(Protocol):
    """One kind of run, from its folder to what the trainer is given.

    Made with the folder, the device and `Say`; then it has read its data.
    """

    @property
    def config(self) -> RunConfig:
        """With everything that `auto` decided, once it is built."""

    @property
    def task(self) -> Task: ...

    @property
    def batches(self) -> Batches: ...

    n_params: int
    """All weights of the model, those that do not train too."""
    identity: dict[str, Any]
    """What a state has to agree with to go on in the same rows."""
    probes: list[Probe]
    resolved: dict[str, Any]
    """Facts for run.json."""

    def build(self) -> None:
        """Make the model, and decide what `auto` means here."""

    def started(self, step: int) -> str:
        """A sentence: what is trained, on what, from where."""

    @property
    def data_changed(self) -> str:
        """Why a run cannot go on when the identity has changed."""

    def finish(self) -> None:
        """After the final checkpoint: whatever else the run leaves behind."""


class Recorder(Protocol):
    """Where rows go. `run_id` is added there."""

    def rows(self, table: str, rows: Sequence[Row]) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...
