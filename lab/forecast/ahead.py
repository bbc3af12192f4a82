"""Replaying in advance what a person is likely to ask next, so that moving a knob is answered by a look-up."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from lab.config import FineTuneConfig, PretrainConfig, changed
from lab.errors import ConfigError, ModelError
from lab.finetuning.batches import Extent
from lab.forecast.finetune_config import finetune_need
from lab.forecast.memory import forecast
from lab.forecast.rules import Device


def warm(config: PretrainConfig, devices: Sequence[Device], stop: Callable[[], bool] = lambda: False) -> int:
    """Replay what is one knob away from `config`, so that the next answer is a look-up; some seconds, off the page's
    thread. Layers and larger batches need no warming.

    Args:
        stop: looked at between two forecasts; True when the person has moved on.

    Returns:
        How many neighbours were forecast.
    """
    done = 0
    for values in neighbours(config):
        try:
            near = changed(config, **values)
        except ConfigError:
            continue  # such as a width that the heads do not divide
        for device in devices:
            if stop():
                return done
            forecast(near, device)
        done += 1
    return done


def warm_finetuning(
    config: FineTuneConfig, extent: Extent | None, devices: Sequence[Device], stop: Callable[[], bool] = lambda: False
) -> int:
    """As `warm`, for a fine-tuning."""
    done = 0
    for values in neighbours_of_finetuning(config):
        for device in devices:
            if stop():
                return done
            with suppress(ConfigError, ModelError):  # such as 4 bits of a GPT of the lab
                finetune_need(changed(config, **values), device, extent)
                done += 1
    return done


def neighbours_of_finetuning(config: FineTuneConfig) -> Iterator[dict[str, Any]]:
    """The changes a person is likely to try next."""
    model, batch = config.model, config.train.batch_size
    yield {"batch_size": batch * 2}  # and with it any other, as long as the loss is in as many chunks
    if config.has_adapter:
        yield {"rank": model.rank * 2}  # and with it any other
        yield {"rank": model.rank * 2, "batch_size": batch * 2}
    yield {"gradient_checkpointing": not config.compute.gradient_checkpointing}
    for method in ("lora", "qlora", "full", "lora_8bit"):
        yield {"method": method}
    yield {"optimizer": "adamw" if config.optim.optimizer != "adamw" else "adamw_8bit"}
    yield {"grad_accum_steps": 2 if config.train.grad_accum_steps == 1 else 1}
    yield {"batch_size": max(1, batch // 2)}
    yield {"max_length": config.data.max_length * 2}
    yield {"max_length": max(8, config.data.max_length // 2)}
    for targets in ("attention", "mlp", "all_linear"):
        yield {"target_modules": targets}
    yield {"dora": not model.dora}


def neighbours(config: PretrainConfig) -> Iterator[dict[str, Any]]:
    """The changes a person is likely to try next: the switches, and a click on plus or minus or a factor of two."""
    compute, model = config.compute, config.model
    yield {"gradient_checkpointing": not compute.gradient_checkpointing}
    yield {"precision": "fp32" if compute.precision == "bf16" else "bf16"}
    yield {"optimizer": "adamw" if config.optim.optimizer == "adamw_8bit" else "adamw_8bit"}
    yield {"tie_embeddings": not model.tie_embeddings}
    yield {"attention_impl": "manual" if compute.attention_impl == "sdpa" else "sdpa"}
    yield {"grad_accum_steps": 2 if config.train.grad_accum_steps == 1 else 1}
    yield {"batch_size": config.train.batch_size * 2}  # and with it every larger one
    yield {"batch_size": max(1, config.train.batch_size // 2)}
    yield {"drop_rate": 0.0 if model.drop_rate else 0.1}
    contexts, widths = (
        [near for near in (value + 64, value - 64, value * 2, value // 2) if near > 0]
        for value in (model.context_length, model.emb_dim)
    )
    heads = [model.n_heads * 2, max(1, model.n_heads // 2)]
    for knob, values in (("context_length", contexts), ("emb_dim", widths), ("n_heads", heads)):
        for near in values:
            yield {knob: near, "stride": None}
    # And with these any width, context and number of heads together: see `between.py`. On either side of the present
    # context, since a sample that is longer than it is written in another way.
    for context in contexts[:2]:
        for width in widths[:2]:
            yield {"context_length": context, "emb_dim": width, "stride": None}
        yield {"context_length": context, "n_heads": heads[0], "stride": None}
