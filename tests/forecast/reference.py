"""The outside reference: what PyTorch's CPU allocator really handed out, by the events of its own profiler."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from lab.config import PretrainConfig
from lab.data.batches import WindowBatches
from lab.training.precision import Precision
from lab.training.pretraining import PretrainTask
from lab.training.trainer import Trainer


def allocator_peak(work: Callable[[], object]) -> int:
    """Most bytes that were handed out at one time during `work`, counted from its beginning."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    result = profiler.profiler.kineto_results
    sizes = sorted(_allocations(result.experimental_event_tree()))
    del kept
    return int(np.cumsum([size for _, size in sizes]).max())


def _allocations(events: list[Any]) -> Iterator[tuple[int, int]]:
    """(time, bytes) of all allocations (positive) and releases (negative) in a tree of events."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _allocations(event.children)


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


def real_step_peak(config: PretrainConfig, steps: int = 2) -> int:
    """Peak of building the model and taking `steps` real steps, in bytes."""

    def work() -> Trainer:
        trainer = real_trainer(config)
        trainer.task.model.train()
        for _ in range(steps):
            trainer._step()
        return trainer

    return allocator_peak(work)
