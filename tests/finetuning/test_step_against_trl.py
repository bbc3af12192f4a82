"""Labels, loss and gradients of one optimizer step, against TRL's SFTTrainer on the same rows."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.trl_reference import let_trl_run_here
from lab.finetuning.batches import Packed, RowBatch
from lab.finetuning.datasets import Prepared
from lab.finetuning.task import FineTuneTask
from tests.finetuning.helpers import config_for, gradients, task_for, tiny_folder
from tests.finetuning.tokenizers import MARKED

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and datasets' own

ROWS = 6
CUTS = (0, 1, 3, 6)  # three micro-batches of 1, 2 and 3 rows: as unequal in labels as can be


def trl_trainer(model: torch.nn.Module, data: Prepared, tokenizer: Any, folder: Path, **settings: Any) -> Any:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    trl = pytest.importorskip("trl", reason="trl is not installed")
    let_trl_run_here()
    rows = []
    single = all(len(one.answers) == 1 for one in data.train_conversations[:ROWS])
    for conversation in data.train_conversations[:ROWS]:
        messages = [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
        rows.append({"prompt": messages[:-1], "completion": messages[-1:]} if single else {"messages": messages})
    if not single:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = MARKED
    args = trl.SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", shuffle_dataset=False,
        assistant_only_loss=not single, gradient_checkpointing=False, **{"max_length": 512, **settings},
    )  # fmt: skip
    return trl.SFTTrainer(
        model=model, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )


def their_step(trainer: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
    labels = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    trainer.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(labels))
        loss.backward()
        total += loss.item()
    return total, gradients(trainer.model)


def our_step(task: FineTuneTask, batches: list[RowBatch]) -> tuple[float, dict[str, torch.Tensor]]:
    """As the trainer does it: sums over labels, divided by the labels of the whole step."""
    labels = sum(batch.n_labels for batch in batches)
    task.model.zero_grad()
    total = 0.0
    for batch in batches:
        part = task.loss_sum(batch) / labels
        part.backward()
        total += part.item()
    return total, gradients(task.model)


def shifted(batch: RowBatch) -> torch.Tensor:
    """Our labels as TRL has them: not yet moved one place to the left."""
    return torch.cat([torch.full_like(batch.labels[:, :1], -100), batch.labels[:, :-1]], dim=1)


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert ours
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, theirs[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    ("dataset", "method"), [("pirate", "lora"), ("json", "lora"), ("curious", "lora"), ("json", "full")]
)
def test_labels_loss_and_gradients_of_a_step_equal_trl_for_each_format(
    dataset: str, method: str, tmp_path: Path
) -> None:
    folder = tiny_folder(tmp_path / "model")
    task, data = task_for(config_for(folder, dataset=dataset, method=method))
    trainer = trl_trainer(copy.deepcopy(task.model), data, task.tokenizer.inner, tmp_path / "trl")
    theirs = [
        trainer.data_collator([trainer.train_dataset[n] for n in range(*cut)]) for cut in itertools.pairwise(CUTS)
    ]
    ours = [RowBatch.of([(row,) for row in data.train[slice(*cut)]], packed=False) for cut in itertools.pairwise(CUTS)]
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(shifted(mine), other["labels"])
        read = other["attention_mask"].bool()
        assert torch.equal(mine.inputs[read], other["input_ids"][read])
    task.model.train()
    trainer.model.train()
    our_loss, our_gradients = our_step(task, ours)
    their_loss, their_gradients = their_step(trainer, theirs)
    assert our_loss == pytest.approx(their_loss, abs=1e-5)
    assert_close(our_gradients, their_gradients)


def test_packed_rows_equal_trl_packing_and_the_rows_one_by_one(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model")
    task, data = task_for(config_for(folder, dataset="pirate", packing=True))
    task.model.train()
    sequences: list[Packed] = [tuple(data.train[:2]), tuple(data.train[2:5])]
    packed = our_step(task, [RowBatch.of(sequences, packed=True)])
    alone = our_step(task, [RowBatch.of([(row,)], packed=False) for row in data.train[:5]])
    assert packed[0] == pytest.approx(alone[0], abs=1e-5)
    assert_close(packed[1], alone[1])
    trainer = trl_trainer(
        copy.deepcopy(task.model), data, task.tokenizer.inner, tmp_path / "trl", padding_free=True, max_length=None
    )
    trainer.model.train()
    theirs = their_step(trainer, [trainer.data_collator([trainer.train_dataset[n] for n in range(5)])])
    assert packed[0] == pytest.approx(theirs[0], abs=1e-5)
    assert_close(packed[1], theirs[1])
