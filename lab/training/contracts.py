"""What the trainer asks of the parts it is given. Pretraining and fine-tuning differ in these parts only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

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


class Recorder(Protocol):
    """Where rows go. `run_id` is added there."""

    def rows(self, table: str, rows: Sequence[Row]) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...
