"""One optimizer step of fine-tuning against TRL's SFTTrainer: tokens per second and peak memory, on smollm2-135m.

    python -m benchmarks.finetune_step [--rounds 5]

Both sides take the same step: LoRA of rank 16 on all linear layers, frozen weights and products in bf16, adapters in
fp32, the same rows, AdamW, gradient clipping; theirs with the settings that SFTTrainer has by itself. Its loss is a
Triton kernel, which needs a GPU: "trl" has the same sums in torch (see trl_reference), with its fp32 products in the
backward pass; "trl_whole_logits" has the plainest loss there is, faster here and larger.

The steps are taken in turn, so that a busy moment of the machine hits all. Memory is what PyTorch's allocator hands out
beyond weights and optimizer state, at its peak (torch.profiler).
"""

import argparse
import copy
import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.results import store
from benchmarks.trl_reference import PlainLogProbs, let_trl_run_here
from lab.config import FineTuneConfig, build_finetune
from lab.finetuning.adapter import attach
from lab.finetuning.base import find_base, load_base
from lab.finetuning.batches import RowBatch
from lab.finetuning.datasets import Prepared, prepare
from lab.finetuning.examples import Example
from lab.finetuning.task import FineTuneTask
from lab.training.precision import Precision
from lab.training.trainer import Trainer

CPU = torch.device("cpu")
BATCH = 4


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")

    config = build_finetune({"precision": "bf16", "threads": args.threads, "max_steps": 1_000, "max_length": 512})
    base = find_base(config.model.model)
    data = prepare(config, base.tokenizer)
    rows = {"pirate_rows": data.train[:BATCH], "rows_of_256": _long_rows(data, 256)}
    figures: dict[str, Any] = {"model": base.name, "threads": args.threads, "rounds": args.rounds}
    for name, chosen in rows.items():
        figures[name] = _compare(config, data, chosen, args.rounds)
        print(name, figures[name])
    figures["wanted"] = {"speed": ">= 0.95", "peak": "<= 1.0"}
    store("finetune_step", figures)


def _compare(config: FineTuneConfig, data: Prepared, rows: list[Example], rounds: int) -> dict[str, Any]:
    sides: dict[str, Callable[[], float]] = {
        "lab": _ours(config, data, rows),
        "trl": _theirs(config, rows, PlainLogProbs),
        "trl_whole_logits": _theirs(config, rows, WholeLogits),
    }
    losses = {name: step() for name, step in sides.items()}  # warms up, too
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else list(reversed(sides)):
            gc.collect()
            started = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - started)
    peaks = {name: _peak_bytes(step) for name, step in sides.items()}
    tokens = sum(len(row.ids) for row in rows)
    others = [name for name in sides if name != "lab"]

    def ratio(name: str) -> float:
        pairs = [theirs / ours for theirs, ours in zip(seconds[name], seconds["lab"], strict=True)]
        return round(statistics.median(pairs), 3)

    return {
        "tokens": tokens,
        "labels": sum(row.n_labels for row in rows),
        "first_loss": {name: round(loss, 5) for name, loss in losses.items()},
        "tokens_per_second": {name: round(tokens / statistics.median(values), 1) for name, values in seconds.items()},
        "peak_mib_beyond_weights": {name: round(peak / 2**20, 1) for name, peak in peaks.items()},
        "speed_against": {name: ratio(name) for name in others},
        "peak_against": {name: round(peaks["lab"] / peaks[name], 3) for name in others},
    }


def _long_rows(data: Prepared, length: int) -> list[Example]:
    """Rows of this length made of several, a quarter of them prompt."""
    ids = [token for row in data.train for token in row.ids]
    learn = tuple(place >= length // 4 for place in range(length))
    return [Example(tuple(ids[n * length : (n + 1) * length]), learn, n + 1) for n in range(BATCH)]


def _model(config: FineTuneConfig) -> torch.nn.Module:
    base = find_base(config.model.model)
    return attach(load_base(base, config, "bf16", CPU), config.model, config.train.seed, address=base.address)[0]


def _ours(config: FineTuneConfig, data: Prepared, rows: list[Example]) -> Callable[[], float]:
    """The lab's own trainer, with a recorder that keeps the last loss."""
    base = find_base(config.model.model)
    task = FineTuneTask(_model(config), config, data, base.tokenizer, Precision("bf16", CPU))
    recorder = _LastLoss()
    trainer = Trainer(
        task, _Given(rows), config, recorder, _Running(), keeper=None, matmul_peak=1.0, identity={}  # type: ignore[arg-type]
    )  # fmt: skip
    task.model.train()

    def step() -> float:
        assert trainer._step()
        return recorder.loss

    return step


class WholeLogits:
    """TRL's loss without any chunks, by autograd."""

    @staticmethod
    def apply(
        hidden: torch.Tensor, weight: torch.Tensor, bias: None, targets: torch.Tensor, *_: Any
    ) -> tuple[Any, ...]:
        logits = (hidden @ weight.T).float()  # [label, vocab]
        chances = logits.log_softmax(-1)
        found = chances.gather(1, targets[:, None])[:, 0]
        with torch.no_grad():
            entropy = -(chances.exp() * chances).sum(-1)
        return found, entropy, None, None, logits.argmax(-1) == targets


def _theirs(config: FineTuneConfig, rows: list[Example], loss: Any) -> Callable[[], float]:
    """SFTTrainer's own pieces in the order of its loop."""
    import datasets
    import trl
    from trl.trainer import utils

    let_trl_run_here()
    base = find_base(config.model.model)
    listed = [
        {"input_ids": list(row.ids), "completion_mask": [int(learnt) for learnt in row.learn]} for row in rows
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        args = trl.SFTConfig(
            output_dir=folder, use_cpu=True, bf16=True, report_to="none", max_length=512, shuffle_dataset=False,
            per_device_train_batch_size=BATCH, gradient_checkpointing=False, completion_only_loss=True,
            learning_rate=config.optim.learning_rate,
        )  # fmt: skip
        trainer = trl.SFTTrainer(
            model=_model(config),
            args=args,
            train_dataset=datasets.Dataset.from_list(listed),
            processing_class=copy.deepcopy(base.tokenizer.inner),  # type: ignore[attr-defined]
        )
    trainer.create_optimizer_and_scheduler(1_000)
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(BATCH)])
    labels = torch.tensor(int((batch["labels"] != -100).sum()))
    trainer.model.train()

    def step() -> float:
        utils._ChunkedLogProbFunction = loss
        found = trainer.training_step(trainer.model, {**batch}, num_items_in_batch=labels)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        return float(found)

    return step


class _LastLoss:
    loss = 0.0

    def rows(self, table: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row.get("name") == "train/loss":
                self.loss = row["value"]

    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


class _Running:
    want = "run"


class _Given:
    steps_per_epoch = 1.0

    def __init__(self, rows: list[Example]):
        self.rows = rows

    def next_step(self) -> list[RowBatch]:
        return [RowBatch.of([(row,) for row in self.rows], packed=False)]

    def state(self) -> dict[str, int]:
        return {}

    def load_state(self, state: Mapping[str, int]) -> None: ...


def _peak_bytes(run: Callable[[], object]) -> int:
    """The most that was allocated at once while it ran, beyond what was there before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        run()
    held = peak = 0
    events: Any = recording.profiler
    found = [(e.start_ns(), e.nbytes()) for e in events.kineto_results.events() if e.name() == "[memory]"]
    for _, count in sorted(found, key=lambda event: event[0]):
        held += count
        peak = max(peak, held)
    return peak


if __name__ == "__main__":
    main()
