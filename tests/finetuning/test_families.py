"""The loss of every family, and whether its packed rows are kept apart, against the model's own logits."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lab.errors import TrainingError
from lab.finetuning.batches import RowBatch
from lab.finetuning.packing import check_packing
from tests.finetuning.helpers import config_for, gradients, task_for, tiny_folder
from tests.tiny_models import CONFIGS

BENT = {"gemma2"}
"""Scores are bent after the output layer: softcap · tanh(scores / softcap)."""
WITH_BIAS = {"gptj", "phi"}
"""The output layer adds a constant to each score."""


@pytest.mark.parametrize("family", CONFIGS)
def test_loss_and_gradients_are_those_of_the_models_own_logits(family: str, tmp_path: Path) -> None:
    task, data = task_for(config_for(tiny_folder(tmp_path / "model", family)))
    assert task._is_plain == (family not in BENT | WITH_BIAS)
    batch = RowBatch.of([(row,) for row in data.train[:3]], packed=False)
    task.model.train()
    task.loss_sum(batch).backward()
    ours = gradients(task.model)
    task.model.zero_grad()
    logits = task.causal(input_ids=batch.inputs, use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    loss.backward()
    assert task.loss_sum(batch).item() == pytest.approx(loss.item(), rel=1e-5)
    theirs = gradients(task.model)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_rows_are_kept_apart(family: str, tmp_path: Path) -> None:
    task, data = task_for(config_for(tiny_folder(tmp_path / "model", family), packing=True))
    sequences = [tuple(data.train[:3])]
    check_packing(task, sequences)
    task.model.eval()  # dropout would tell a packed row from one that stands alone
    packed = task.loss_sum(RowBatch.of(sequences, packed=True)).item()
    alone = sum(task.loss_sum(RowBatch.of([(row,)], packed=False)).item() for row in sequences[0])
    assert packed == pytest.approx(alone, rel=1e-5)


def test_a_model_that_mixes_packed_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = task_for(config_for(tiny_folder(tmp_path / "model"), packing=True))
    monkeypatch.setattr(task, "_placed", lambda positions: {})  # as if the positions were not looked at
    with pytest.raises(TrainingError, match="turn packing off"):
        check_packing(task, [tuple(data.train[:3])])
