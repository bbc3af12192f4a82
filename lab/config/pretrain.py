"""A pretraining run as one value, and the rules that hold between its knobs."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lab.config.knobs import Section
from lab.config.sections import ComputeConfig, DataConfig, GPTConfig, OptimConfig, TrainConfig


class AnyRunConfig(BaseModel):
    """What every kind of run has; each kind says its own sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    kind: str
    model: Section
    data: Section
    optim: OptimConfig
    train: TrainConfig
    compute: ComputeConfig

    @property
    def sequences_per_step(self) -> int:
        """The effective batch: sequences (or rows) that one optimizer step sees."""
        return self.train.batch_size * self.train.grad_accum_steps


class PretrainConfig(AnyRunConfig):
    """Everything that decides a pretraining run: the same config, machine and text give the same weights."""

    kind: Literal["pretrain"] = "pretrain"
    model: GPTConfig = GPTConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    compute: ComputeConfig = ComputeConfig()

    @property
    def tokens_per_step(self) -> int:
        """The effective batch in tokens."""
        return self.sequences_per_step * self.model.context_length

    @property
    def stride(self) -> int:
        """Tokens between two window starts, with the default filled in."""
        return self.data.stride or self.model.context_length


BUDGET_FIELDS = ("max_steps", "max_epochs", "max_minutes")


def rule_width_splits_into_heads(values: dict[str, Any]) -> str | None:
    width, heads = values["emb_dim"], values["n_heads"]
    if width % heads:
        return (
            f"emb_dim {width} cannot be split between n_heads {heads} heads: "
            f"{width} / {heads} leaves {width % heads}; choose a width that is a multiple of the heads."
        )
    return None


def rule_one_budget(values: dict[str, Any]) -> str | None:
    given = [name for name in BUDGET_FIELDS if values[name] is not None]
    if not given:
        return "No budget is set: give one of max_steps, max_epochs or max_minutes."
    if len(given) > 1:
        listed = ", ".join(f"{name} {values[name]}" for name in given)
        return f"One budget is enough, but {len(given)} are set ({listed}): keep one of them."
    return None


def rule_stride_leaves_no_gap(values: dict[str, Any]) -> str | None:
    stride, context = values["stride"], values["context_length"]
    if stride is not None and stride > context:
        return (
            f"stride {stride} is longer than context_length {context}: "
            f"{stride - context} tokens between two windows would never be read; lower the stride."
        )
    return None


PRETRAIN_RULES = (
    rule_width_splits_into_heads,
    rule_one_budget,
    rule_stride_leaves_no_gap,
)
"""Plain functions over the flat values; each returns a sentence, or None when all is well."""
