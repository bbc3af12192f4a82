"""The memory curve of any pretraining config from few replays: two depths tell all, two batches, three widths.

Replays are remembered, so a knob that does not matter for memory, the number of layers and large batches are answered
at once; within `without_replays` so is a width, a context or a number of heads between others.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Literal

from lab.config import PretrainConfig
from lab.forecast.between import ENOUGH, KNOBS, Values, through
from lab.forecast.replay import replay_evaluation, replay_generation, replay_step
from lab.forecast.rules import DeviceRules
from lab.forecast.storages import Log
from lab.forecast.timeline import DEEP, SHALLOW, Timeline, deepen, linear_in_batch, timeline
from lab.training.loss import _LOGITS_AT_ONCE as LOGITS_AT_ONCE

What = Literal["step", "evaluation", "generation"]
PROMPT_TOKENS = 16
"""Of a sample: more than the usual few words."""


def _replay_sample(config: PretrainConfig, rules: DeviceRules) -> Log:
    return replay_generation(config, rules, PROMPT_TOKENS, max(1, config.train.sample_tokens))


REPLAYS: dict[What, Callable[[PretrainConfig, DeviceRules], Log]] = {
    "step": replay_step,
    "evaluation": replay_evaluation,
    "generation": _replay_sample,
}

_replayed_values = Values()
_may_lie_between: ContextVar[bool] = ContextVar("may_lie_between", default=False)
_given_up: ContextVar[Callable[[], bool]] = ContextVar("given_up", default=lambda: False)
_ONE_REPLAY = threading.Lock()
"""Replays of several threads would only wait for each other's Python; one after the other shares the cache."""


class GivenUpError(Exception):
    """Nobody waits for this answer any more."""


@contextmanager
def giving_up_when(nobody_waits: Callable[[], bool]) -> Iterator[None]:
    """Within this, each replay first asks whether its answer is still wanted, and raises `GivenUpError` if not."""
    before = _given_up.set(nobody_waits)
    try:
        yield
    finally:
        _given_up.reset(before)


@contextmanager
def without_replays() -> Iterator[None]:
    """Within this an answer is put together from what was replayed before: of the same values, or, to within half a
    percent, of three others of one knob. Where that is not enough `GivenUpError` is raised."""
    before = _may_lie_between.set(True)
    try:
        with giving_up_when(lambda: True):
            yield
    finally:
        _may_lie_between.reset(before)


def forget() -> None:
    """As in a new process: every answer is replayed again."""
    _replayed.cache_clear()
    _replayed_values.clear()


def timeline_of(config: PretrainConfig, rules: DeviceRules, what: What) -> Timeline:
    """The memory curve of `what`, at any depth and batch size. `config` holds nothing else that it depends on."""
    n_layers = config.model.n_layers
    if n_layers <= DEEP:
        return _any_value(config, rules, what)
    shallow, deep = (_any_value(_of_depth(config, depth), rules, what) for depth in (SHALLOW, DEEP))
    return deepen(shallow, deep, n_layers)


# -- inside -----------------------------------------------------------------------------------------------


def _any_value(config: PretrainConfig, rules: DeviceRules, what: What) -> Timeline:
    """As replayed; or, where nobody can wait for that, between others."""
    try:
        found = _any_batch(config, rules, what)
    except GivenUpError:
        if not _may_lie_between.get() or (near := _between(config, rules, what)) is None:
            raise
        return near
    _replayed_values.add(config, rules, what)
    return found


def _between(config: PretrainConfig, rules: DeviceRules, what: What) -> Timeline | None:
    """From three other values of a knob; None where there are not as many."""
    for knob in KNOBS:
        points: list[tuple[int, Timeline]] = []
        # What writes beyond its context is a line in it but for the open attention's weights: two values do.
        enough = 2 if what == "generation" and knob == "context_length" else ENOUGH
        for value in _replayed_values.near(config, knob, rules, what):
            other = config.model_copy(update={"model": config.model.model_copy(update={knob: value})})
            if _works_alike(config, other, what):
                with suppress(GivenUpError):
                    points.append((value, _any_batch(other, rules, what, at_once=_at_once(config))))
            if len(points) == ENOUGH:
                break
        if len(points) >= enough:
            return through(points, getattr(config.model, knob))
    return None


def _works_alike(config: PretrainConfig, other: PretrainConfig, what: What) -> bool:
    """Whether the same things happen: both or neither write beyond their context, so that its window slides; or their
    loss is in as many chunks, all beyond two counting as three. What is done at once can be thought of at any size."""

    def slides(one: PretrainConfig) -> bool:
        return PROMPT_TOKENS + max(1, one.train.sample_tokens) > one.model.context_length

    def chunks(one: PretrainConfig) -> int:
        return min(3, -(-one.train.batch_size * one.model.context_length // _loss_rows(one)))

    if what == "generation":
        return slides(config) == slides(other)
    return chunks(config) == 1 or chunks(config) == chunks(other)


def _loss_rows(config: PretrainConfig) -> int:
    """Positions whose scores the loss holds at once."""
    return max(1, LOGITS_AT_ONCE // config.model.vocab_size)


def _at_once(config: PretrainConfig) -> bool:
    """Whether the loss is computed in one piece."""
    return config.train.batch_size * config.model.context_length <= _loss_rows(config)


def _any_batch(config: PretrainConfig, rules: DeviceRules, what: What, *, at_once: bool | None = None) -> Timeline:
    """At any batch size. The loss works through its positions in chunks: within one chunk, and again past two of them,
    a larger batch only adds, in proportion, so two smaller ones tell the rest.

    Args:
        at_once: whether the loss is taken to be computed in one piece; None where the config itself says.
    """
    batch = config.train.batch_size
    one_chunk = _at_once(config) if at_once is None else at_once
    first = 2 if one_chunk else -(-2 * _loss_rows(config) // config.model.context_length)
    if batch <= first + 1:
        return _replayed(config, rules, what)
    one, two = (_replayed(_of_batch(config, size), rules, what) for size in (first, first + 1))
    return linear_in_batch(one, first, two, first + 1, batch, loss_in_chunks=not one_chunk)


@lru_cache(maxsize=1024)
def _replayed(config: PretrainConfig, rules: DeviceRules, what: What) -> Timeline:
    if _given_up.get()():
        raise GivenUpError
    with _ONE_REPLAY:
        return timeline(REPLAYS[what](config, rules))


def _of_depth(config: PretrainConfig, n_layers: int) -> PretrainConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"n_layers": n_layers})})


def _of_batch(config: PretrainConfig, batch_size: int) -> PretrainConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch_size})})
