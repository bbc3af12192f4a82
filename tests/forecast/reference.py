"""The outside reference: what PyTorch's CPU allocator really handed out, by the events of its own profiler."""

import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from lab.config import FineTuneConfig, PretrainConfig
from lab.data.batches import WindowBatches
from lab.finetuning.batches import Extent, RowBatch
from lab.finetuning.examples import Example
from lab.training.precision import Precision
from lab.training.pretraining import PretrainTask
from lab.training.trainer import Trainer
from tests.finetuning.helpers import task_for
from tests.training.helpers import GivenBatches

STEPS = "the steps"
"""Name of the stretch that a peak is looked for in, where there is one."""


def allocator_peak(work: Callable[[], object]) -> int:
    """Most bytes that were handed out at one time during `work`, counted from its beginning.

    Where `work` does a part of it within `record_function(STEPS)`, the most at one time in that part.
    """
    gc.collect()  # what an earlier measurement made would be freed in the middle of this one, and counted against it
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    events = profiler.profiler.kineto_results.experimental_event_tree()
    sizes = sorted(_allocations(events))
    begin = min(_starts(events), default=0)
    del kept
    held = np.cumsum([size for _, size in sizes])
    return int(held[[time >= begin for time, _ in sizes]].max())


def _allocations(events: list[Any]) -> Iterator[tuple[int, int]]:
    """(time, bytes) of all allocations (positive) and releases (negative) in a tree of events."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _allocations(event.children)


def _starts(events: list[Any]) -> Iterator[int]:
    for event in events:
        if event.name == STEPS:
            yield event.start_time_ns
        yield from _starts(event.children)


class Silence:
    """A recorder that keeps nothing."""

    def rows(self, table: str, rows: object) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


def real_trainer(config: PretrainConfig) -> Trainer:
    """The trainer that a run of `config` would get, with real weights and a text of random tokens."""
    context, vocabulary = config.model.context_length, config.model.vocab_size
    needed = config.train.batch_size * config.train.grad_accum_steps * context
    tokens = np.random.Generator(np.random.PCG64(0)).integers(0, vocabulary, needed + 1, dtype=np.uint16)
    tokenizer = SimpleNamespace(vocab_size=vocabulary, end_of_text=None, encode=lambda text: [0], count_bytes=len)
    val = tokens[: max(config.train.batch_size * context, 4096) + 1]
    task = PretrainTask(config, SimpleNamespace(val=val, tokenizer=tokenizer, opening="x"), torch.device("cpu"))
    task.precision = Precision(config.compute.precision, torch.device("cpu"))
    batches = WindowBatches(
        tokens,
        context_length=context,
        stride=context,
        batch_size=config.train.batch_size,
        grad_accum_steps=config.train.grad_accum_steps,
        seed=0,
    )
    control = SimpleNamespace(want="run")
    return Trainer(task, batches, config, Silence(), control, keeper=None, matmul_peak=1.0, identity={})


def finetuning_step_peak(config: FineTuneConfig, extent: Extent, steps: int = 2) -> int:
    """Peak of `steps` real steps of a fine-tuning, its model loaded and given an adapter as a run does, in bytes.

    Args:
        extent: tokens and labels of every sequence; packed, they are two rows.
    """
    batch = RowBatch.of([_sequence(config, extent)] * config.train.batch_size, packed=config.data.packing)
    assert batch.n_labels == config.train.batch_size * extent.labels

    def work() -> Trainer:
        task, _ = task_for(config, stir=False)
        for tensor in (*task.model.parameters(), *task.model.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.clone()  # out of a mapped file, whose memory no allocator handed out
        batches = GivenBatches([batch] * config.train.grad_accum_steps)
        control = SimpleNamespace(want="run")
        trainer = Trainer(task, batches, config, Silence(), control, keeper=None, matmul_peak=1.0, identity={})
        task.model.train()
        with record_function(STEPS):
            for _ in range(steps):
                trainer._step()
        return trainer

    return allocator_peak(work)


def _sequence(config: FineTuneConfig, extent: Extent) -> tuple[Example, ...]:
    """Rows that make a sequence of this extent; the labels at its end."""
    learnt = (False,) * (extent.tokens - extent.labels) + (True,) * extent.labels
    ids = (3,) * extent.tokens
    if not config.data.packing:
        return (Example(ids, learnt, 1),)
    half = (extent.tokens - extent.labels) // 2  # the first row learns nothing, and ends where learning begins
    return Example(ids[:half], learnt[:half], 1), Example(ids[half:], learnt[half:], 2)


def real_step_peak(config: PretrainConfig, steps: int = 2) -> int:
    """Peak of building the model and taking `steps` real steps, in bytes."""

    def work() -> Trainer:
        trainer = real_trainer(config)
        trainer.task.model.train()
        for _ in range(steps):
            trainer._step()
        return trainer

    return allocator_peak(work)
