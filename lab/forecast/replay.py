"""The real training step of a config, run on tensors without memory.

Nothing here knows how a step works: `PretrainTask`, `Trainer._step`, `summed_cross_entropy` and `build_optimizer` are
the ones that train. Only the ground is exchanged: weights of no memory, batches of no text, rows that go nowhere.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lab.config import PretrainConfig
from lab.control import Control
from lab.data.batches import MicroBatch, TextData, ValidationWindows
from lab.forecast.rules import DeviceRules
from lab.forecast.storages import Log, StorageTracker
from lab.models.generate import next_logits
from lab.models.gpt import GPTModel, KVCache
from lab.training.contracts import Row
from lab.training.keeper import Keeper
from lab.training.precision import Precision
from lab.training.pretraining import EVAL_TOKENS_AT_ONCE, PretrainTask
from lab.training.trainer import Trainer

_FAKE = torch.device("cpu")


@dataclass(frozen=True)
class FakeBatch:
    """A micro-batch without text: what `MicroBatch` is to the real step."""

    inputs: Any
    labels: Any
    n_labels: int

    @property
    def n_tokens(self) -> int:
        return self.n_labels


class TokenIds:
    """Token ids where NumPy put them, on their way to the device: int64 [batch, pos]."""

    def __init__(self, shape: tuple[int, ...], tracker: StorageTracker):
        self.shape = shape
        self._tracker = tracker

    def to(self, device: torch.device) -> Tensor:
        """On CUDA a copy; on a CPU the memory that NumPy took, which no allocator of torch's knows."""
        ids = torch.empty(self.shape, dtype=torch.int64)
        if not self._tracker.rules.copies_batches:
            self._tracker.leave_out(ids)
        return ids


class FakeBatches:
    """Steps without end, all alike."""

    steps_per_epoch = 1.0

    def __init__(self, batch: FakeBatch, micro_batches: int):
        self._step = [batch] * micro_batches

    def next_step(self) -> list[Any]:
        return list(self._step)

    def state(self) -> dict[str, int]:
        return {}

    def load_state(self, state: Mapping[str, int]) -> None:
        """There is no place in no text."""


class NoRecorder:
    """Rows that go nowhere."""

    def rows(self, table: str, rows: Sequence[Row]) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


class _FollowedTask(PretrainTask):
    """The real task; says when a forward pass begins and ends."""

    tracker: StorageTracker

    def loss_sum(self, batch: Any) -> Tensor:
        ids = TokenIds(tuple(batch.inputs.shape), self.tracker)
        moved = cast(MicroBatch, FakeBatch(ids, ids, batch.n_labels))
        if not self.model.training:
            return super().loss_sum(moved)
        self.tracker.begin_forward(self.dropout_clock.micro_step)
        with self.tracker.rules.autocast():
            return super().loss_sum(moved)


@contextmanager
def fakes(rules: DeviceRules) -> Iterator[StorageTracker]:
    """Inside, tensors take no memory and the yielded tracker follows those that would."""
    tracker = StorageTracker(rules)
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), tracker:
        warnings.simplefilter("ignore")  # what bitsandbytes and torch say about the CPU is not about this run
        yield tracker


def without_memory(model: nn.Module) -> None:
    """Replace each weight of a model laid out on `meta` by a fake one on the CPU; a shared weight stays shared."""
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=_FAKE)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = (tensor, fake)  # the first keeps the id taken
                store[name] = made[id(tensor)][1]  # type: ignore[assignment]


def replay_step(config: PretrainConfig, rules: DeviceRules, *, steps: int = 1) -> Log:
    """Set up the training of `config`, take a step or more (forward and backward per micro-batch, clip, update), and
    copy the state for a checkpoint.

    Args:
        config: precision must be named ("auto" is decided by measuring, which a forecast cannot).
        steps: after one step the optimizer's state is there. One is enough: `timeline.py` puts that state at its start.
    """
    with fakes(rules) as tracker:
        trainer = _trainer(config, tracker)
        trainer.task.model.train()
        for _ in range(steps):
            with tracker.during("forward"):
                trainer._step()
            mark_state(trainer, tracker)
        if not rules.state_copy_is_elsewhere:
            with tracker.during("checkpoint"):
                snapshot = trainer.snapshot()
                for tensor in snapshot.tensors.values():
                    tracker.mark(tensor, "checkpoint_copy")
    return tracker.log


def replay_evaluation(config: PretrainConfig, rules: DeviceRules) -> Log:
    """One batch of the validation loss, `batch_size` windows. Optimizer state is not made here; the caller adds it."""
    with fakes(rules) as tracker:
        task = _task(config, tracker)
        rows = config.train.batch_size
        ids = TokenIds((rows, config.model.context_length), tracker)
        task._validation = cast(ValidationWindows, [FakeBatch(ids, ids, rows)])
        with tracker.during("evaluation"), rules.autocast():
            task.evaluate(lambda: False)
    return tracker.log


def replay_generation(config: PretrainConfig, rules: DeviceRules, prompt_tokens: int, new_tokens: int) -> Log:
    """The two dearest moments of writing a text: reading what stands there, and one more token with a full cache."""
    with fakes(rules) as tracker:
        model = _task(config, tracker).model
        context = config.model.context_length
        longest = prompt_tokens + new_tokens
        with tracker.during("generation"):
            if longest > context:  # the window slides: everything is read anew for each token
                next_logits(model, [0] * context)
            cache = KVCache()
            next_logits(model, [0] * (min(longest, context) - 1), cache)
            next_logits(model, [0] * min(longest, context), cache)
    return tracker.log


def _task(config: PretrainConfig, tracker: StorageTracker) -> _FollowedTask:
    with torch.device("meta"):
        model = GPTModel(
            config.model,
            attention_impl=config.compute.attention_impl,
            gradient_checkpointing=config.compute.gradient_checkpointing,
        )
    without_memory(model)
    for parameter in model.parameters():
        tracker.mark(parameter, "weights")
    task = _FollowedTask(config, _text(config), _FAKE, model=model)
    task.tracker = tracker
    task.precision = Precision(_named(config), _FAKE)
    tracker.follow_modules(model, config.model.vocab_size)
    return task


def _trainer(config: PretrainConfig, tracker: StorageTracker) -> Trainer:
    train, shape = config.train, (config.train.batch_size, config.model.context_length)
    ids = TokenIds(shape, tracker)
    batch = FakeBatch(ids, ids, shape[0] * shape[1])
    return Trainer(
        _task(config, tracker),
        # The third micro-batch and all later ones find what the second found: gradients that are there already.
        FakeBatches(batch, min(train.grad_accum_steps, 2)),
        config,
        NoRecorder(),
        cast(Control, SimpleNamespace(want="run")),
        keeper=cast(Keeper, None),
        matmul_peak=1.0,
        identity={},
    )


def _text(config: PretrainConfig) -> TextData:
    """A validation text long enough for one batch."""
    context, wanted = config.model.context_length, config.train.eval_tokens
    batch = max(config.train.batch_size, EVAL_TOKENS_AT_ONCE // context)
    length = batch * context if wanted is None else max(context, min(wanted, batch * context))
    tokenizer = SimpleNamespace(
        vocab_size=config.model.vocab_size, end_of_text=None, encode=lambda text: [0], count_bytes=len
    )
    return cast(TextData, SimpleNamespace(val=np.zeros(length + 1, dtype=np.uint16), tokenizer=tokenizer, opening="…"))


def mark_state(trainer: Trainer, tracker: StorageTracker) -> None:
    for state in trainer.optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                tracker.mark(value, "optimizer")


def _named(config: PretrainConfig) -> Any:
    assert config.compute.precision != "auto", "named before"
    return config.compute.precision
