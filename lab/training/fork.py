"""A child run: a parent's checkpoint, with other settings from there on."""

import os
import shutil
from dataclasses import replace

from lab.config import PretrainConfig, RunConfig, changed, differences
from lab.errors import CheckpointError, ConfigError
from lab.models.checkpoints import find_checkpoint, mark, verify
from lab.rundir import RunDir, create_run

SHAPE = {
    "pretrain": ("context_length", "emb_dim", "n_layers", "n_heads", "qkv_bias", "tie_embeddings", "tokenizer"),
    "finetune": ("model", "method", "rank", "alpha", "rslora", "dora", "target_modules"),
}
"""What the weights themselves are made for: a fork cannot change it. The vocabulary comes with the tokenizer; alpha and
rank say what a number in an adapter is worth."""


def check_fork(original: RunConfig, config: RunConfig) -> None:
    """Make sure that a parent's weights fit the child's config.

    Raises:
        ConfigError: they do not.
    """
    if original.kind != config.kind:
        raise ConfigError([f"A fork of a {original.kind} run is one, too, and not a {config.kind} run."])
    different = differences(original, config)
    fixed = [name for name in SHAPE[original.kind] if name in different]
    if fixed:
        said = ", ".join(f"{name} from {different[name][0]} to {different[name][1]}" for name in fixed)
        raise ConfigError([f"A fork keeps its parent's weights, so it cannot change {said}; start a new run for that."])


def fork_run(parent: RunDir, step: int | None, config: RunConfig, *, name: str = "") -> RunDir:
    """Make the child's directory; training it starts from the parent's state at `step` (None: the newest).

    Raises:
        ConfigError: the config does not fit the parent's weights.
        CheckpointError: no such checkpoint, or it is damaged.
    """
    original = parent.config()
    check_fork(original, config)
    if isinstance(original, PretrainConfig) and isinstance(config, PretrainConfig):
        config = changed(config, vocab_size=original.model.vocab_size)
    info = find_checkpoint(parent, step)
    verify(info)
    if config.train.max_steps is not None and config.train.max_steps <= info.step:
        said = f"max_steps is {config.train.max_steps:,}, but steps are counted from the parent's first"
        raise ConfigError([f"{said}: give more than the {info.step:,} that its checkpoint has."])
    name = name or f"{parent.info()['name']} from step {info.step}"
    child = create_run(config, name=name, parent=(parent.run_id, info.step))
    try:
        child.resume.mkdir()
        _link(info.path, child.resume / info.path.name)
        mark(replace(info, path=child.resume / info.path.name), "resume")
        if config.kind == "pretrain":  # a fine-tuning reads with its base's
            shutil.copy(parent.tokenizer_path, child.tokenizer_path)
    except OSError as error:  # a live parent has just replaced its rolling state, or the disk is full
        shutil.rmtree(child.path, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint of step {info.step:,} could not be taken over ({error.strerror}): try again, or choose "
            "another one."
        ) from error
    return child


def _link(source: os.PathLike[str], target: os.PathLike[str]) -> None:
    """The same bytes under a second name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
