"""What of a config its memory depends on. Without torch, so that a page can look an answer up by it."""

from typing import Any

from lab.config import ComputeConfig, FineTuneConfig, OptimConfig, PretrainConfig, TrainConfig


def bare(config: PretrainConfig) -> PretrainConfig:
    """The config with all that memory does not depend on at its default, so that equal needs are looked up."""
    train = config.train
    return PretrainConfig(
        model=config.model,
        optim=OptimConfig(optimizer=config.optim.optimizer, grad_clip=config.optim.grad_clip),
        train=TrainConfig(
            batch_size=train.batch_size,
            grad_accum_steps=min(train.grad_accum_steps, 2),
            eval_tokens=train.eval_tokens,
            sample_tokens=train.sample_tokens,
            max_steps=1,
        ),
        compute=ComputeConfig(
            precision=config.compute.precision,
            attention_impl=config.compute.attention_impl,
            gradient_checkpointing=config.compute.gradient_checkpointing,
        ),
    )


def bare_finetuning(config: FineTuneConfig) -> FineTuneConfig:
    """As `bare`, of a fine-tuning. Which model and how long its rows are stays in it, too."""
    usual, model, train = FineTuneConfig(), config.model, config.train
    adapter = ("rank", "lora_dropout", "dora", "target_modules") if config.has_adapter else ()
    return FineTuneConfig(
        model=_taken(usual.model, model, "model", "mode", "method", *adapter),
        data=_taken(usual.data, config.data, "packing", "max_length"),
        optim=_taken(usual.optim, config.optim, "optimizer", "grad_clip"),
        # The third micro-batch and all later ones find what the second found: gradients that are there already.
        train=usual.train.model_copy(
            update={"batch_size": train.batch_size, "grad_accum_steps": min(train.grad_accum_steps, 2)}
        ),
        compute=_taken(
            usual.compute, config.compute, "device", "precision", "attention_impl", "gradient_checkpointing"
        ),
    )


def _taken(usual: Any, section: Any, *names: str) -> Any:
    """`usual` with these settings of `section`."""
    return usual.model_copy(update={name: getattr(section, name) for name in names})
