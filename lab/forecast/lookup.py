"""The memory curve of any pretraining config from few replays: two depths tell all, two batches, some widths.

Replays are remembered, so a knob that does not matter for memory, the number of layers and large batches are answered
at once; within `without_replays` so is a width, a context or a number of heads between others.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Literal

from lab.config import PretrainConfig
from lab.forecast.between import Known, Terms, Values, between
from lab.forecast.patience import GivenUpError, may_lie_between, one_replay
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

KNOBS = ("emb_dim", "context_length", "n_heads")
"""Of the model; memory is a polynomial in them."""

_known = Known()


def forget() -> None:
    """As in a new process: every answer is replayed again."""
    _replayed.cache_clear()
    _known.clear()


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
        if not may_lie_between() or (near := _between(config, rules, what)) is None:
            raise
        return near
    _known.add((_but_for_knobs(config), rules, what), _values(config))
    return found


def _between(config: PretrainConfig, rules: DeviceRules, what: What) -> Timeline | None:
    """From other values of width, context and heads; None where they do not tell."""

    def timeline_at(values: Values) -> Timeline | None:
        other = config.model_copy(
            update={"model": config.model.model_copy(update=dict(zip(KNOBS, values, strict=True)))}
        )
        if not _works_alike(config, other, what):
            return None
        with suppress(GivenUpError):
            return _any_batch(other, rules, what, at_once=_at_once(config))
        return None

    asked = _values(config)
    others = _known.near((_but_for_knobs(config), rules, what), asked)
    return between(asked, others, _terms(config, what), timeline_at)


def _terms(config: PretrainConfig, what: What) -> Terms:
    if what != "generation":
        return _reading_terms
    return _sliding_terms if _slides(config) else _writing_terms


def _reading_terms(width: int, context: int, heads: int) -> Sequence[float]:
    """Of a step or an evaluation: matrices, positions, activations, attention's weights (or a sum for each row)."""
    of_attention = (heads * context, heads * context**2)
    return 1, width, width**2, context, context**2, width * context, *of_attention


def _writing_terms(width: int, context: int, heads: int) -> Sequence[float]:
    """Of a sample that stays within its context: of that only the positions' embedding knows."""
    return 1, width, width**2, width * context, heads


def _sliding_terms(width: int, context: int, heads: int) -> Sequence[float]:
    """Of a longer one, which is read one whole context at a time. Its square (the open attention's weights) is left
    out: for one sequence it is small, and without it two contexts tell."""
    return 1, width, width**2, context, width * context, heads, heads * context


def _values(config: PretrainConfig) -> Values:
    return tuple(getattr(config.model, knob) for knob in KNOBS)


def _but_for_knobs(config: PretrainConfig) -> PretrainConfig:
    """The config without what `_values` says, in batches of one: see `linear_in_batch`."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=dict.fromkeys(KNOBS, 0)),
            "train": config.train.model_copy(update={"batch_size": 1}),
        }
    )


def _works_alike(config: PretrainConfig, other: PretrainConfig, what: What) -> bool:
    """Whether the same things happen: both or neither write beyond their context, so that its window slides; or their
    loss is in as many chunks, all beyond two counting as three. What is done at once can be thought of at any size."""

    def chunks(one: PretrainConfig) -> int:
        return min(3, -(-one.train.batch_size * one.model.context_length // _loss_rows(one)))

    if what == "generation":
        return _slides(config) == _slides(other)
    return chunks(config) == 1 or chunks(config) == chunks(other)


def _slides(config: PretrainConfig) -> bool:
    """Whether a sample is longer than the context."""
    return PROMPT_TOKENS + max(1, config.train.sample_tokens) > config.model.context_length


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
    with one_replay():
        return timeline(REPLAYS[what](config, rules))


def _of_depth(config: PretrainConfig, n_layers: int) -> PretrainConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"n_layers": n_layers})})


def _of_batch(config: PretrainConfig, batch_size: int) -> PretrainConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch_size})})
