"""A tiny model that chats, saved as a folder, and what a test of its fine-tuning needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from lab.config import FineTuneConfig, build_finetune
from lab.finetuning.adapter import attach
from lab.finetuning.base import find_base, load_base
from lab.finetuning.datasets import Prepared, prepare
from lab.finetuning.job import FineTuneJob
from lab.finetuning.task import FineTuneTask
from lab.rundir import RunDir, create_run
from lab.training.precision import Precision
from lab.training.run import train_run
from tests.finetuning.tokenizers import CHAT, saved_tokenizer
from tests.tiny_models import CONFIGS, filled
from tests.training.helpers import RowList, Trained

CPU = torch.device("cpu")

SMALL: dict[str, Any] = {
    "dataset": "pirate", "max_length": 512, "batch_size": 2, "max_steps": 3, "eval_every": 100, "eval_tokens": 2_000,
    "sample_tokens": 0, "rank": 4, "threads": 1, "precision": "fp32", "device": "cpu", "learning_rate": 1e-2,
}  # fmt: skip
"""A run of a second or two. Nothing in it is `auto`, so nothing is measured."""


def tiny_folder(folder: Path, family: str = "llama", template: str | None = CHAT, **shape: Any) -> Path:
    """A model of this family with random weights and a context of 512, with a tokenizer of bytes that chats."""
    config: Any = CONFIGS[family]()
    config.vocab_size += 2  # the marks of the template
    for name in ("max_position_embeddings", "n_positions"):
        if name in config.to_dict():
            setattr(config, name, 512)
    for name, value in shape.items():
        setattr(config, name, value)
    model = filled(transformers.AutoModelForCausalLM.from_config(config))
    model.save_pretrained(folder)
    return saved_tokenizer(folder, template)


def config_for(folder: Path | str, **changes: Any) -> FineTuneConfig:
    return build_finetune(SMALL, {"model": str(folder), **changes})


def task_for(config: FineTuneConfig, *, stir: bool = True) -> tuple[FineTuneTask, Prepared]:
    """The task of a run, without a run.

    Args:
        stir: move every B off zero; with B = 0 no A has a gradient, and a mistake there would not show.
    """
    base = find_base(config.model.model)
    data = prepare(config, base.tokenizer)
    name = config.compute.precision
    assert name != "auto"
    model = load_base(base, config, name, CPU)
    if config.has_adapter:
        model, _ = attach(model, config.model, config.train.seed, address=base.address)
        if stir:
            stir_adapter(model)
    return FineTuneTask(model, config, data, base.tokenizer, Precision(name, CPU)), data


@torch.no_grad()
def stir_adapter(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def finetune(config: FineTuneConfig, rows: RowList | None = None, **kwargs: Any) -> Trained:
    """Fine-tune a new run in this process."""
    return go_on(create_run(config, **kwargs), rows)


def go_on(run: RunDir, rows: RowList | None = None) -> Trained:
    """Fine-tune an existing run to its end."""
    rows = rows or RowList()
    return Trained(run, rows, train_run(run, rows, None, None, FineTuneJob))


class StopsAt(RowList):
    """Asks the run to stop once it has made this step."""

    def __init__(self, run: RunDir, step: int):
        super().__init__()
        self.run, self.step = run, step

    def rows(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        super().rows(table, rows)
        if table == "metrics" and any(row["name"] == "train/loss" and row["step"] == self.step for row in rows):
            self.run.ask(want="stop")
