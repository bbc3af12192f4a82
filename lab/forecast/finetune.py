"""The memory of a fine-tuning step, whatever the method: the same replay.

The run's own code does everything: `FineTuneTask` reads the rows and computes the loss, peft puts its adapters on the
model, bitsandbytes' layers compute, `Trainer._step` takes the step. Exchanged are the weights (`unfilled.py`) and the
rows, of which only lengths are known.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lab.config import FineTuneConfig
from lab.control import Control
from lab.data.tokenizers import Tokenizer
from lab.finetuning.adapter import wrap
from lab.finetuning.batches import Extent, RowBatch
from lab.finetuning.datasets import Prepared
from lab.finetuning.examples import Example
from lab.finetuning.task import FineTuneTask
from lab.forecast.bare import bare_finetuning
from lab.forecast.between import Known, Values, between
from lab.forecast.patience import GivenUpError, may_lie_between, one_replay
from lab.forecast.replay import FakeBatches, NoRecorder, TokenIds, fakes, mark_state
from lab.forecast.rules import CPU, CUDA, PIECEMEAL_ROWS, Device, DeviceRules
from lab.forecast.storages import Log, StorageTracker
from lab.forecast.timeline import DEEP, SHALLOW, Timeline, deepen, linear_in_batch, timeline
from lab.forecast.unfilled import Shape, fill, layers_are_alike, of_depth, reads_plainly, unfilled, vocabulary_of
from lab.training.keeper import Keeper
from lab.training.loss import _LOGITS_AT_ONCE as LOGITS_AT_ONCE
from lab.training.precision import Precision
from lab.training.trainer import Trainer

MANY_CHUNKS = 8
"""Of the loss: more are not replayed one by one."""
PAGED_FROM = 100_000
"""bitsandbytes pages the state of tensors with at least this many elements; smaller ones stay on the device."""

_CPU = torch.device("cpu")


def all_learnt(tokens: int) -> Extent:
    """Rows of which every token is learnt; the first of a row never is."""
    return Extent(tokens, max(1, tokens - 1))


def step_timeline(shape: Shape, config: FineTuneConfig, extent: Extent, device: Device) -> Timeline:
    """The memory curve of one fine-tuning step, and of the copy for a checkpoint.

    Args:
        config: precision must be named.
        extent: of every sequence; a micro-batch of the longest ones is what needs most.
    """
    rules = CUDA if device == "cuda" else CPU
    bared = bare_finetuning(config)
    usual = FineTuneConfig()  # shape and extent say these
    bared = bared.model_copy(
        update={
            "model": bared.model.model_copy(update={"model": usual.model.model, "mode": usual.model.mode}),
            "data": bared.data.model_copy(update={"max_length": usual.data.max_length}),
            "compute": bared.compute.model_copy(update={"device": usual.compute.device}),
        }
    )
    if shape.n_layers <= DEEP or not layers_are_alike(shape):
        return _any_value(shape, bared, extent, rules)
    shallow, deep = (_any_value(of_depth(shape, depth), bared, extent, rules) for depth in (SHALLOW, DEEP))
    return deepen(shallow, deep, shape.n_layers)


def replay_step(shape: Shape, config: FineTuneConfig, extent: Extent, rules: DeviceRules) -> Log:
    """Set up the training, take one step, and on a CPU copy what trains for a checkpoint."""
    precision = Precision(_named(config), _CPU)
    is_plain = reads_plainly(of_depth(shape, 1))
    model = unfilled(shape, config, precision.name)
    random_state = torch.Generator().get_state().nbytes
    if config.has_adapter:
        with torch.device("meta"):
            model, _ = wrap(model, config.model, address="")
    with fakes(rules) as tracker:
        fill(model, tracker)
        if rules.device == "cpu":
            _keep_random_states(model, random_state, tracker)
        task = _FollowedTask(model, config, precision, is_plain, tracker)
        trainer = _trainer(task, config, extent, tracker)
        model.train()
        with tracker.during("forward"):
            trainer._step()
        mark_state(trainer, tracker)
        if config.optim.optimizer.startswith("paged") and rules.device == "cuda":
            _page_out(trainer, tracker)
        if not rules.state_copy_is_elsewhere:
            with tracker.during("checkpoint"):
                snapshot = trainer.snapshot()
                for tensor in snapshot.tensors.values():
                    tracker.mark(tensor, "checkpoint_copy")
    return tracker.log


# -- inside -----------------------------------------------------------------------------------------------


_known = Known()


def forget() -> None:
    """As in a new process: every answer is replayed again."""
    _replayed.cache_clear()
    _known.clear()


def _any_value(shape: Shape, config: FineTuneConfig, extent: Extent, rules: DeviceRules) -> Timeline:
    """As replayed; or, where nobody can wait for that, between other batches, lengths and ranks."""
    values = (config.train.batch_size, extent.tokens, extent.labels, config.model.rank)
    about = shape, _sized(config, 1, 1), rules, _chunks(shape, values)
    try:
        found = _any_batch(shape, config, extent, rules)
    except GivenUpError:
        if not may_lie_between():
            raise

        def timeline_at(other: Values) -> Timeline | None:
            batch, tokens, labels, rank = other
            with suppress(GivenUpError):
                return _any_batch(shape, _sized(config, batch, rank), Extent(tokens, labels), rules)
            return None

        near = between(values, _known.near(about, values), _terms, timeline_at)
        if near is None:
            raise
        return near
    _known.add(about, values)
    return found


def _terms(batch: int, tokens: int, labels: int, rank: int) -> Sequence[float]:
    """Adapters; activations, those inside of adapters, attention's weights; scores of the tokens that are learnt."""
    read = batch * tokens
    return 1, rank, batch, read, read * rank, read * tokens, batch * labels


def _chunks(shape: Shape, values: Values) -> int:
    """Of the loss, all beyond two counting as three."""
    batch, _, labels, _ = values
    return min(3, -(-batch * labels // max(1, LOGITS_AT_ONCE // vocabulary_of(shape))))


def _any_batch(shape: Shape, config: FineTuneConfig, extent: Extent, rules: DeviceRules) -> Timeline:
    """At any batch size: where the loss is in many chunks, all beyond the second are alike, and two smaller batches
    tell the rest. Else a replay takes no longer for a larger batch."""
    batch, rows = config.train.batch_size, max(1, LOGITS_AT_ONCE // vocabulary_of(shape))
    if batch * extent.labels <= MANY_CHUNKS * rows or not reads_plainly(of_depth(shape, 1)):
        return _replayed(shape, config, extent, rules)
    first = max(-(-2 * rows // extent.labels), PIECEMEAL_ROWS // extent.tokens + 1)  # 4 bits are unpacked from there on
    if batch <= first + 1:
        return _replayed(shape, config, extent, rules)
    one, two = (_replayed(shape, _sized(config, size), extent, rules) for size in (first, first + 1))
    return linear_in_batch(one, first, two, first + 1, batch, loss_in_chunks=True)


def _sized(config: FineTuneConfig, batch_size: int, rank: int | None = None) -> FineTuneConfig:
    """The config with this batch and, if given, this rank."""
    train = config.train.model_copy(update={"batch_size": batch_size})
    model = config.model if rank is None else config.model.model_copy(update={"rank": rank})
    return config.model_copy(update={"train": train, "model": model})


@lru_cache(maxsize=256)
def _replayed(shape: Shape, config: FineTuneConfig, extent: Extent, rules: DeviceRules) -> Timeline:
    with one_replay():
        return timeline(replay_step(shape, config, extent, rules))


class _FollowedTask(FineTuneTask):
    """The real task; says when a forward pass begins."""

    def __init__(
        self, model: nn.Module, config: FineTuneConfig, precision: Precision, is_plain: bool, tracker: StorageTracker
    ):
        self._is_known_plain = is_plain
        self._tracker = tracker
        row = Example((0, 0), (True, True), 1)
        data = SimpleNamespace(train=[row], val=[row], questions=lambda _: [])
        super().__init__(model, config, cast(Prepared, data), cast(Tokenizer, None), precision)

    def loss_sum(self, batch: Any) -> Tensor:
        self._tracker.begin_forward(self.dropout_clock.micro_step)
        rules, is_packed = self._tracker.rules, self.config.data.packing
        with rules.autocast(), _seen_by_peft(rules, self.precision), nullcontext() if is_packed else _taken_for_real():
            return super().loss_sum(batch)

    def _reads_plainly(self) -> bool:
        """Fakes have no numbers to compare."""
        return self._is_known_plain


class _FakeRows(RowBatch):
    """A micro-batch of which only the lengths are known."""

    def __init__(self, config: FineTuneConfig, extent: Extent, tracker: StorageTracker):
        ids = cast(Tensor, TokenIds((config.train.batch_size, extent.tokens), tracker))
        self.inputs = self.labels = ids
        self.positions = ids if config.data.packing else None
        self.n_labels = config.train.batch_size * extent.labels
        self.n_tokens = config.train.batch_size * extent.tokens


def _trainer(task: FineTuneTask, config: FineTuneConfig, extent: Extent, tracker: StorageTracker) -> Trainer:
    tracker.follow_modules(task.model, task._output.out_features)
    batch = _FakeRows(config, extent, tracker)
    tracker.counted = batch.n_labels
    batches = cast(Any, FakeBatches(cast(Any, batch), config.train.grad_accum_steps))
    control, keeper = cast(Control, SimpleNamespace(want="run")), cast(Keeper, None)
    return Trainer(task, batches, config, NoRecorder(), control, keeper=keeper, matmul_peak=1.0, identity={})


def _keep_random_states(model: nn.Module, size: int, tracker: StorageTracker) -> None:
    """With each checkpointed block transformers keeps the state of torch's generator: no operation makes that tensor,
    so no tracker sees it. It lives as long as the function that computes the block again."""

    def keeping(checkpoint: Callable[..., Any], name: str) -> Callable[..., Any]:
        def checkpointed(block: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
            with tracker.inside(name):
                state = torch.empty(size, dtype=torch.uint8)

            def again(*inputs: Any, kept: Tensor = state) -> Any:
                return block(*inputs)

            return checkpoint(again, *inputs, **settings)

        return checkpointed

    for name, module in cast(Any, model.named_modules()):
        if "_gradient_checkpointing_func" in vars(module):
            module._gradient_checkpointing_func = keeping(module._gradient_checkpointing_func, name)


def _page_out(trainer: Trainer, tracker: StorageTracker) -> None:
    """Paged state lies in memory that the driver moves to the computer when the GPU needs room."""
    for parameter, state in trainer.optimizer.state.items():
        if parameter.numel() >= PAGED_FROM:
            for name in ("state1", "state2"):
                tracker.leave_out(state[name])


@contextmanager
def _taken_for_real() -> Iterator[None]:
    """transformers builds a mask of T × T for fake tensors, thinking that a compiler looks on, where a real run needs
    none; packed rows need one. Only fakes are told apart by this function, so no other thread can notice."""
    from transformers.utils import import_utils

    before = import_utils.is_fake_tensor
    import_utils.is_fake_tensor = lambda _: False
    try:
        yield
    finally:
        import_utils.is_fake_tensor = before


def _seen_by_peft(rules: DeviceRules, precision: Precision) -> AbstractContextManager[object]:
    return _cuda_autocast() if rules.device == "cuda" and precision.name != "fp32" else nullcontext()


@contextmanager
def _cuda_autocast() -> Iterator[None]:
    """peft asks whether *CUDA's* autocast is on. The flag belongs to this thread and moves no CPU tensor."""
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)


def _named(config: FineTuneConfig) -> Any:
    assert config.compute.precision != "auto", "named before"
    return config.compute.precision
