"""Whether a model keeps packed rows apart: tried on the model itself, before it is trusted."""

from collections.abc import Sequence

import torch

from lab.errors import TrainingError
from lab.finetuning.batches import Packed, RowBatch
from lab.finetuning.task import FineTuneTask

_SAME = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}  # of the loss, in nats per token


@torch.no_grad()
def check_packing(task: FineTuneTask, sequences: Sequence[Packed]) -> None:
    """Compare the loss of one packed sequence with that of its rows one by one.

    Raises:
        TrainingError: they differ: this architecture lets rows see each other.
    """
    packed = min(
        (one for one in sequences if len(one) > 1), key=lambda one: sum(len(row.ids) for row in one), default=None
    )
    if packed is None:
        return  # every sequence is one row: nothing to keep apart
    task.model.eval()
    together = RowBatch.of([packed], packed=True)
    loss = task.loss_sum(together).item() / together.n_labels
    alone = sum(task.loss_sum(RowBatch.of([(row,)], packed=False)).item() for row in packed) / together.n_labels
    task.model.train()
    if abs(loss - alone) > _SAME[task.precision.name] * max(1.0, alone):
        raise TrainingError(
            f"Packed rows are not kept apart by this model (loss {loss:.4f} packed, {alone:.4f} one by one): turn "
            "packing off."
        )
