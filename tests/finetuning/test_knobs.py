"""Every knob of a fine-tuning does what it says. A new one fails here until somebody says how to see that it does."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import FineTuneConfig, leaves
from lab.errors import DataError
from lab.finetuning.datasets import prepare
from lab.models.checkpoints import checkpoints_in
from lab.sessions.hf_tokenizer import HFTokenizer
from tests.finetuning.helpers import config_for, finetune, task_for
from tests.training.helpers import Trained

pytestmark = pytest.mark.usefixtures("quick")

SMALL = {"max_steps": 2, "eval_tokens": 300}

CHANGES_WHAT_IS_LEARNT: dict[str, tuple[Any, dict[str, Any]]] = {
    # knob: the other value, and what else has to be set for it to matter
    "method": ("full", {}),
    "rank": (2, {}),
    "alpha": (1.0, {}),
    "lora_dropout": (0.5, {}),
    "rslora": (True, {}),
    "dora": (True, {}),
    "target_modules": ("attention", {}),
    "dataset": ("json", {}),
    "chat_template": ("lab", {}),
    "packing": (True, {}),
    "completion_only": (False, {}),
    "val_fraction": (0.5, {}),
    "learning_rate": (1e-4, {}),
    "schedule": ("constant", {"warmup_steps": 0}),
    "warmup_steps": (2, {"max_steps": 3}),
    "schedule_steps": (50, {"warmup_steps": 0}),
    "min_lr_ratio": (1.0, {"warmup_steps": 0}),
    "optimizer": ("adamw_8bit", {"rank": 64, "max_steps": 3}),
    "weight_decay": (1.0, {}),
    "beta1": (0.1, {}),
    "beta2": (0.1, {}),
    "grad_clip": (1e-9, {}),
    "batch_size": (3, {}),
    "grad_accum_steps": (2, {}),
    "max_steps": (3, {}),
    "seed": (2, {}),
    "precision": ("bf16", {}),
}


def trained_with(model: Path, **changes: Any) -> Trained:
    trained = finetune(config_for(model, **{**SMALL, **changes}))
    assert trained.outcome.status == "finished", trained.outcome.error
    return trained


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in trained.tensors().items() if name.startswith("model.")}


@cache
def plain(model: Path, others: tuple[tuple[str, Any], ...]) -> dict[str, torch.Tensor]:
    """The small run; most knobs are compared with the same one."""
    return weights(trained_with(model, **dict(others)))


@pytest.mark.parametrize("knob", CHANGES_WHAT_IS_LEARNT)
def test_what_is_learnt_depends_on(knob: str, tiny_llama: Path) -> None:
    value, others = CHANGES_WHAT_IS_LEARNT[knob]
    before, after = (
        plain(tiny_llama, tuple(others.items())),
        weights(trained_with(tiny_llama, **others, **{knob: value})),
    )
    if before.keys() == after.keys():
        assert any(
            before[name].shape != after[name].shape or not torch.equal(before[name], after[name]) for name in before
        )


def adapted(model: Path, **changes: Any) -> Any:
    return task_for(config_for(model, **changes))[0]


def model_is_what_is_tuned(model: Path, tmp_path: Path) -> None:
    from tests.finetuning.helpers import tiny_folder

    other = trained_with(tiny_folder(tmp_path / "qwen", "qwen2"))
    assert other.run.info()["resolved"]["base"]["folder"].endswith("qwen")


def rows_of(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def questions(*, ask: str = "prompt", answer: str = "completion") -> list[dict[str, str]]:
    return [{ask: f"What is {n}?", answer: f"It is {n}."} for n in range(20)]


def columns_are_renamed(model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path / "own.jsonl", *questions(ask="q", answer="a"))
    tokenizer = HFTokenizer(model)
    with pytest.raises(DataError):
        prepare(config_for(model, dataset=data), tokenizer)
    found = prepare(config_for(model, dataset=data, columns=("prompt=q", "completion=a")), tokenizer)
    assert found.report.rows == 20


def format_is_enforced(model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path / "own.jsonl", *questions())
    assert prepare(config_for(model, dataset=data), HFTokenizer(model)).report.format == "prompt_completion"
    with pytest.raises(DataError):
        prepare(config_for(model, dataset=data, format="messages"), HFTokenizer(model))


def max_length_refuses_what_it_would_cut_and_bounds_what_is_packed(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cuts off"):
        prepare(config_for(model, max_length=50), HFTokenizer(model))
    short, long = (
        trained_with(model, packing=True, max_length=n).run.info()["resolved"]["steps_per_epoch"] for n in (256, 512)
    )
    assert long < 0.7 * short


def max_epochs_counts_rows(model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path / "own.jsonl", *questions())
    trained = trained_with(model, dataset=data, max_steps=None, max_epochs=1.0, batch_size=6)
    assert trained.outcome.steps == 3, "18 rows to train on"


def max_minutes_ends_a_run(model: Path, tmp_path: Path) -> None:
    assert trained_with(model, max_steps=None, max_minutes=0.0003).outcome.steps >= 1


def eval_every_is_the_distance_of_looks(model: Path, tmp_path: Path) -> None:
    assert list(trained_with(model, max_steps=4, eval_every=2).rows.metric("val/loss")) == [0, 2, 4]


def eval_tokens_says_how_much_is_read(model: Path, tmp_path: Path) -> None:
    few, all_of_them = (trained_with(model, eval_tokens=n).rows.metric("val/loss")[0] for n in (200, None))
    assert few != all_of_them


def forget_tokens_says_how_much_of_the_story_is_read_and_0_asks_nothing(model: Path, tmp_path: Path) -> None:
    few, many, none = (trained_with(model, forget_tokens=n).rows for n in (64, 512, 0))
    assert few.metric("forget/loss")[0] != many.metric("forget/loss")[0]
    assert few.metric("forget/accuracy") == many.metric("forget/accuracy")
    assert not none.metric("forget/loss")
    assert not none.metric("forget/accuracy")


def sample_prompts_are_asked(model: Path, tmp_path: Path) -> None:
    trained = trained_with(model, sample_prompts=("Who?", "Where?"), sample_tokens=3)
    assert {row["prompt"] for row in trained.rows.tables["samples"]} == {"Who?", "Where?"}


def sample_tokens_bounds_an_answer_and_0_asks_nothing(model: Path, tmp_path: Path) -> None:
    samples = trained_with(model, sample_tokens=2).rows.tables["samples"]
    assert all(row["sampling"]["max_new_tokens"] == 2 and len(row["text"].encode()) <= 8 for row in samples)
    assert not trained_with(model, sample_tokens=0).rows.tables.get("samples")


def checkpoints_are_kept_as_asked(model: Path, tmp_path: Path) -> None:
    trained = trained_with(model, max_steps=6, checkpoint_every=1, keep_last=2)
    assert [info.step for info in checkpoints_in(trained.run.checkpoints)] == [4, 5, 6]


def attention_impl_chooses_the_kernel(model: Path, tmp_path: Path) -> None:
    kernels = {
        name: adapted(model, attention_impl=name).causal.config._attn_implementation for name in ("sdpa", "manual")
    }
    assert kernels == {"sdpa": "sdpa", "manual": "eager"}


def gradient_checkpointing_is_on_in_the_model(model: Path, tmp_path: Path) -> None:
    assert adapted(model, gradient_checkpointing=True).causal.is_gradient_checkpointing
    assert not adapted(model).causal.is_gradient_checkpointing


def precision_is_that_of_the_frozen_weights(model: Path, tmp_path: Path) -> None:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        frozen = [p for p in adapted(model, precision=name).model.parameters() if not p.requires_grad]
        assert {parameter.dtype for parameter in frozen} == {dtype}


def threads_are_used(model: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        trained_with(model, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def device_that_is_not_here_is_refused(model: Path, tmp_path: Path) -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    outcome = finetune(config_for(model, **SMALL, device=missing)).outcome
    assert "this machine has only" in (outcome.error or "")


def mode_fast_is_refused_here(model: Path, tmp_path: Path) -> None:
    assert "fast mode" in (finetune(config_for(model, mode="fast")).outcome.error or "")


SEEN_OTHERWISE: dict[str, Callable[[Path, Path], None]] = {
    "model": model_is_what_is_tuned,
    "mode": mode_fast_is_refused_here,
    "format": format_is_enforced,
    "columns": columns_are_renamed,
    "max_length": max_length_refuses_what_it_would_cut_and_bounds_what_is_packed,
    "max_epochs": max_epochs_counts_rows,
    "max_minutes": max_minutes_ends_a_run,
    "eval_every": eval_every_is_the_distance_of_looks,
    "eval_tokens": eval_tokens_says_how_much_is_read,
    "forget_tokens": forget_tokens_says_how_much_of_the_story_is_read_and_0_asks_nothing,
    "sample_prompts": sample_prompts_are_asked,
    "sample_tokens": sample_tokens_bounds_an_answer_and_0_asks_nothing,
    "checkpoint_every": checkpoints_are_kept_as_asked,
    "keep_last": checkpoints_are_kept_as_asked,
    "attention_impl": attention_impl_chooses_the_kernel,
    "gradient_checkpointing": gradient_checkpointing_is_on_in_the_model,
    "precision": precision_is_that_of_the_frozen_weights,
    "threads": threads_are_used,
    "device": device_that_is_not_here_is_refused,
}
ON_A_GPU_ONLY = {"tf32"}  # proven for pretraining, by the same line of code


@pytest.mark.parametrize("knob", SEEN_OTHERWISE)
def test_the_knob_does_what_it_says(knob: str, tiny_llama: Path, tmp_path: Path) -> None:
    SEEN_OTHERWISE[knob](tiny_llama, tmp_path)


def test_every_knob_is_proven() -> None:
    names = {leaf.name for leaf in leaves(FineTuneConfig) if leaf.level != "derived"}
    assert names == CHANGES_WHAT_IS_LEARNT.keys() | SEEN_OTHERWISE.keys() | ON_A_GPU_ONLY
