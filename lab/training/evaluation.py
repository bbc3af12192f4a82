"""The validation loss, whatever is trained."""

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from lab.data.batches import MicroBatch


class Judged(Protocol):
    """What of a task an evaluation needs."""

    @property
    def model(self) -> nn.Module: ...

    def loss_sum(self, batch: MicroBatch) -> Tensor: ...


@torch.no_grad()
def summed_loss(
    task: Judged, batches: Iterable[MicroBatch], stop: Callable[[], bool]
) -> tuple[float, dict[str, float]] | None:
    """Cross-entropy of all labels of these batches, the model in eval mode; None when stopped half-way.

    Returns:
        Their sum in nats, and the metrics that every kind of run has.
    """
    task.model.eval()
    total, labels = 0.0, 0
    try:
        for batch in batches:
            if stop():
                return None
            total += task.loss_sum(batch).item()
            labels += batch.n_labels
    finally:
        task.model.train()
    loss = total / labels
    # Past 700 a float has no room for the exponential.
    return total, {"val/loss": loss, "val/perplexity": math.exp(min(loss, 700.0))}
