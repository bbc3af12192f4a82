"""The memory of a fine-tuning run from its config: against the allocator, and what is said where it does not fit."""

from pathlib import Path
from typing import Any

import pytest

from lab.finetuning.batches import RowBatch
from lab.finetuning.examples import Example
from lab.finetuning.job import FineTuneJob
from lab.forecast.budget import gpu_budget
from lab.forecast.finetune_config import FineTuneAdviser, finetune_need
from lab.rundir import create_run
from lab.training.run import train_run
from lab.training.trainer import Trainer
from tests.finetuning.conftest import quick as quick
from tests.finetuning.conftest import tiny_llama as tiny_llama
from tests.finetuning.helpers import config_for, finetune, task_for
from tests.forecast.reference import allocator_peak
from tests.training.helpers import GivenBatches, NoKeeper, RowList, Trained, assert_same_tensors

LENGTH = 128


class _Running:
    want = "run"


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "qlora", "precision": "bf16"}, {"gradient_checkpointing": True}, {"target_modules": "mlp"}],
    ids=str,
)
def test_a_runs_own_step_takes_what_was_forecast(changes: dict[str, Any], tiny_llama: Path) -> None:
    config = config_for(tiny_llama, max_length=512, grad_accum_steps=2, **changes)
    rows = [Example(tuple(range(3, 3 + LENGTH)), (True,) * LENGTH, 1)] * config.train.batch_size
    batch = RowBatch.of([(row,) for row in rows], packed=False)

    def work() -> object:
        task, _ = task_for(config)
        batches = GivenBatches([batch, batch])  # type: ignore[list-item]
        trainer = Trainer(
            task, batches, config, RowList(), _Running(), keeper=NoKeeper(), matmul_peak=1.0, identity={}  # type: ignore[arg-type]
        )  # fmt: skip
        task.model.train()
        for _ in range(2):
            trainer._step()
        return trainer

    need = finetune_need(config, "cpu", longest=LENGTH)
    assert need is not None
    assert sum(need.kinds.values()) == need.peak_bytes
    assert need.peak_bytes == pytest.approx(allocator_peak(work), rel=0.05)


@pytest.mark.parametrize("changes", [{"method": "full"}, {"method": "lora_8bit"}, {"dora": True}])
def test_what_no_replay_knows_is_not_guessed(changes: dict[str, Any], tiny_llama: Path) -> None:
    assert finetune_need(config_for(tiny_llama, **changes), "cpu") is None


def test_a_run_records_its_forecast_and_advice_fits_into_what_there_is(tiny_llama: Path, quick: Path) -> None:
    config = config_for(tiny_llama, batch_size=8)
    adviser = FineTuneAdviser(create_run(config))
    found = adviser.foresee(config)
    assert found is not None
    assert found.needed_bytes > 0
    need = finetune_need(config, "cpu")
    assert need is not None
    assert need.verdict(gpu_budget(16)).fits
    limit = round(0.7 * need.peak_bytes) + (2 << 30)  # the budget takes process and reserve off
    for change in adviser.out_of_memory(config, limit):
        changed = finetune_need(config_for(tiny_llama, **{"batch_size": 8, **change.changes}), "cpu")
        assert changed is not None
        assert changed.peak_bytes < need.peak_bytes


def test_the_first_step_of_a_run_is_followed_and_changes_nothing(tiny_llama: Path, quick: Path) -> None:
    config = config_for(tiny_llama, lora_dropout=0.1, completion_only=False)
    plain = finetune(config)
    run, rows = create_run(config), RowList()
    outcome = train_run(run, rows, None, FineTuneAdviser(run), FineTuneJob)
    assert outcome.status == "finished", outcome.error
    followed = Trained(run, rows, outcome)
    assert_same_tensors(plain.tensors(), followed.tensors())
    memory = run.info()["memory"]
    need = finetune_need(config, "cpu", longest=run.info()["resolved"]["data"]["longest"])
    assert need is not None
    assert memory["step_forecast_bytes"] == need.peak_bytes
    # The forecast is for the longest rows; those of the first step are as they come.
    assert 0.5 * need.peak_bytes < outcome.memory["system/step_memory_gib"] * 2**30 <= 1.05 * need.peak_bytes
