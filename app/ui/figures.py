"""The figures beside a form, as plain arithmetic: they move with the knobs, and no model is built for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from lab.config import PretrainConfig
from lab.data.windows import count_windows, split
from lab.models.parts import parameter_counts, state_bytes, training_flops_per_token


@dataclass(frozen=True, kw_only=True)
class TextSize:
    """What is known of a corpus under a tokenizer before anything is tokenized."""

    tokens: int
    vocab_size: int
    exact: bool = True
    """False when `tokens` is an estimate from the number of characters."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast a run of the past was on this machine."""

    name: str
    config: PretrainConfig
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """An estimate of the time of one step, and what it rests on."""

    seconds_per_step: float
    basis: str


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a config means."""

    sequences_per_step: int
    tokens_per_step: int
    steps: int | None
    """None: a budget in minutes, and nobody has measured the speed yet."""
    epochs: float | None
    parameters: dict[str, int]
    """By part, and "total"."""
    memory: dict[str, int]
    """Exact bytes of weights, gradients, optimizer state, and total; not the peak of a step."""
    seconds: float | None
    basis: str

    @property
    def total_tokens(self) -> int | None:
        return None if self.steps is None else self.steps * self.tokens_per_step


def figures(config: PretrainConfig, text: TextSize, measured: Sequence[Measured] = ()) -> Figures:
    """Work out the figures of a config.

    Args:
        measured: runs of the past with their speed, newest first.
    """
    config = with_vocabulary(config, text.vocab_size)
    speed = estimate_speed(config, measured)
    steps_per_epoch = windows_per_epoch(config, text) / config.sequences_per_step
    steps = budget_steps(config, steps_per_epoch, speed)
    return Figures(
        sequences_per_step=config.sequences_per_step,
        tokens_per_step=config.tokens_per_step,
        steps=steps,
        epochs=steps / steps_per_epoch if steps is not None and steps_per_epoch else None,
        parameters=parameter_counts(config.model),
        memory=state_bytes(config.model, config.optim.optimizer),
        seconds=steps * speed.seconds_per_step if steps is not None and speed else None,
        basis=speed.basis if speed else "",
    )


def with_vocabulary(config: PretrainConfig, vocab_size: int) -> PretrainConfig:
    """The config with the vocabulary that its tokenizer will have on its text."""
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": vocab_size})})


def windows_per_epoch(config: PretrainConfig, text: TextSize) -> int:
    """Windows in one pass over the training part of the text."""
    train, _ = split(text.tokens, config.data.val_fraction)
    return count_windows(len(train), config.model.context_length, config.stride)


def budget_steps(config: PretrainConfig, steps_per_epoch: float, speed: Speed | None) -> int | None:
    """The budget in steps, whichever way it is given."""
    train = config.train
    if train.max_steps is not None:
        return train.max_steps
    if train.max_epochs is not None:
        return max(1, ceil(train.max_epochs * steps_per_epoch))
    if train.max_minutes is not None and speed is not None:
        return max(1, round(train.max_minutes * 60 / speed.seconds_per_step))
    return None


def estimate_speed(config: PretrainConfig, measured: Sequence[Measured]) -> Speed | None:
    """Seconds a step, from what was measured: the same work if it was run, else the nearest in size, scaled.

    Scaling assumes that the machine does as many operations a second as it did there, which is off by up to
    a few times between very different shapes; that is why the basis is said.
    """
    for run in measured:
        if work(run.config) == work(config):
            return Speed(
                seconds_per_step=config.tokens_per_step / run.tokens_per_second,
                basis=f"measured in {run.name}",
            )
    if not measured:
        return None
    flops = training_flops_per_token(config.model)

    def distance(run: Measured) -> float:
        ratio = flops / training_flops_per_token(run.config.model)
        return max(ratio, 1 / ratio)

    near = min(measured, key=distance)
    tokens_per_second = near.tokens_per_second * training_flops_per_token(near.config.model) / flops
    return Speed(
        seconds_per_step=config.tokens_per_step / tokens_per_second,
        basis=f"roughly: scaled by the arithmetic from {near.name}",
    )


def work(config: PretrainConfig) -> tuple[object, ...]:
    """What decides the speed of a token: shape, micro-batch and how it is computed."""
    compute = config.compute
    return (
        config.model,
        config.train.batch_size,
        config.optim.optimizer,
        compute.attention_impl,
        compute.gradient_checkpointing,
    )
