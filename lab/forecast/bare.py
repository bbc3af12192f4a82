"""What of a config its memory depends on. Without torch, so that a page can look an answer up by it."""

from lab.config import ComputeConfig, OptimConfig, PretrainConfig, TrainConfig


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
