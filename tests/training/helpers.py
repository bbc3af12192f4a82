"""What most of these tests need: a very small run, a place for its rows, and stand-ins of a few lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lab.config import PretrainConfig, build_pretrain
from lab.control import Control
from lab.data.batches import MicroBatch, TextData, WindowBatches, prepare_text
from lab.models.checkpoints import CheckpointInfo, checkpoints_in, read_checkpoint
from lab.rundir import RunDir, create_run
from lab.training.pretraining import PretrainTask
from lab.training.run import Outcome, train_run
from lab.training.trainer import Trainer

SMALL: dict[str, Any] = {
    "corpus": "tiny", "tokenizer": "char", "emb_dim": 16, "n_layers": 2, "n_heads": 2, "context_length": 16,
    "batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "eval_every": 100, "eval_tokens": 64, "sample_tokens": 0,
    "threads": 1, "precision": "fp32", "device": "cpu",
}  # fmt: skip
"""A run of a fifth of a second. Nothing in it is `auto`, so nothing is measured."""

SPEED_ROWS = {"train/tokens_per_second", "train/mfu", "system/memory_gib"}
"""Metrics that say how fast a machine was, not what was learned."""


def small(**changes: Any) -> PretrainConfig:
    return build_pretrain(SMALL, changes)


class RowList:
    """A recorder that keeps its rows in memory."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def rows(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        self.tables.setdefault(table, []).extend(rows)

    def flush(self) -> None: ...
    def close(self) -> None: ...

    def rollback(self, after_step: int) -> None:
        for table in ("metrics", "samples", "checkpoints"):
            self.tables[table] = [row for row in self.tables.get(table, []) if row["step"] <= after_step]

    def metric(self, name: str) -> dict[int, float]:
        """Step -> value."""
        return {row["step"]: row["value"] for row in self.tables.get("metrics", []) if row["name"] == name}

    def learned(self) -> list[tuple[int, int, str, float]]:
        """Every metric row that a second run of the same config has to repeat to the last bit."""
        rows = self.tables.get("metrics", [])
        return [(r["step"], r["tokens_seen"], r["name"], r["value"]) for r in rows if r["name"] not in SPEED_ROWS]

    def messages(self, kind: str) -> list[str]:
        return [row["message"] for row in self.tables.get("events", []) if row["kind"] == kind]


@dataclass
class Trained:
    """A run after it ended."""

    run: RunDir
    rows: RowList
    outcome: Outcome

    @property
    def losses(self) -> dict[int, float]:
        return self.rows.metric("train/loss")

    @property
    def final(self) -> CheckpointInfo:
        (info,) = [info for info in checkpoints_in(self.run.checkpoints) if info.kind == "final"]
        return info

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer state of the final checkpoint."""
        return read_checkpoint(self.final)[0]


def train(config: PretrainConfig, **kwargs: Any) -> Trained:
    """Train a new run in this process."""
    return go_on(create_run(config, **kwargs))


def go_on(run: RunDir, rows: RowList | None = None) -> Trained:
    """Train an existing run to its end."""
    rows = rows or RowList()
    return Trained(run, rows, train_run(run, rows))


def assert_same_tensors(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, f"{len(different)} of {len(left)} tensors differ: {different[:3]}"


class GivenBatches:
    """Hands out the steps it was given, again and again."""

    steps_per_epoch = 1.0

    def __init__(self, *steps: list[MicroBatch]):
        self.steps = steps
        self.taken = 0

    def next_step(self) -> list[MicroBatch]:
        self.taken += 1
        return self.steps[(self.taken - 1) % len(self.steps)]

    def state(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state(self, state: Mapping[str, int]) -> None:
        self.taken = state["taken"]


class NoKeeper:
    """Keeps nothing."""

    resume_is_due = False
    is_writing = False

    def keep(self, snapshot: Any, kind: str) -> None: ...
    def keep_resume(self, snapshot: Any) -> None: ...
    def put_off_resume(self) -> None: ...
    def collect(self) -> None: ...


def task_for(config: PretrainConfig) -> tuple[PretrainTask, TextData]:
    data = prepare_text(config)
    config = build_pretrain(SMALL, {**_flat(config), "vocab_size": data.tokenizer.vocab_size})
    return PretrainTask(config, data, torch.device("cpu")), data


def trainer_for(config: PretrainConfig, batches: Any = None, *, precision: str = "fp32") -> Trainer:
    """A trainer without a run directory: nothing is kept, rows go to `trainer.recorder`."""
    from lab.training.precision import Precision

    task, data = task_for(config)
    task.precision = Precision(precision, task.device)  # type: ignore[arg-type]
    if batches is None:
        batches = WindowBatches(
            data.train,
            context_length=config.model.context_length,
            stride=config.stride,
            batch_size=config.train.batch_size,
            grad_accum_steps=config.train.grad_accum_steps,
            seed=config.train.seed,
        )
    run = create_run(config)
    return Trainer(
        task,
        batches,
        config,
        RowList(),
        Control(run.control_path),
        keeper=NoKeeper(),  # type: ignore[arg-type]
        matmul_peak=1e12,
        identity={},
    )


def _flat(config: PretrainConfig) -> dict[str, Any]:
    from lab.config import flat

    return flat(config)
