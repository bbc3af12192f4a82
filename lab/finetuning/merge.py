"""An adapter made part of the weights: W + scale · B · A, summed in 32 bits.

An adapter that was trained beside weights in 4 or 8 bits may be added to one of two things. "trained": the coarse
weights, written out again as ordinary numbers; that is the model that was trained. "original": the weights as they were
before they were made coarse; the adapter has learnt to correct an error that is not there, so this is another model.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lab.config import FineTuneConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import ModelError
from lab.finetuning.base import compute_in
from lab.models.families import unwrapped
from lab.models.gpt import GPTModel
from lab.rundir import RunDir
from lab.sessions.opening import adapter_of, open_session, with_adapter
from lab.sessions.session import ModelSession

Into = Literal["trained", "original"]


@dataclass(frozen=True)
class Merged:
    """A model without any adapter, in fp32."""

    model: nn.Module
    tokenizer: Tokenizer
    into: str
    """Which weights the adapter was added to, in words."""


def open_trained(run: RunDir, step: int) -> tuple[ModelSession, str]:
    """The trained model, computed as exactly as its weights allow; and how, in words.

    Raises:
        LabError: it cannot be opened.
    """
    config = run.config_as(FineTuneConfig)
    stored = {"qlora": "4bit", "lora_8bit": "8bit"}.get(config.model.method, "fp32")
    ref = f"{run.run_id}@{step}"
    adapter = adapter_of(ref)
    session = open_session(config.model.model if adapter else ref, precision=cast(Any, stored), device="cpu")
    in_fp32(session.model)  # before the adapter comes: beside 16-bit weights peft would round it to 16 bits
    if adapter:
        session = with_adapter(session, adapter)
    said = {
        "4bit": "NF4 weights and the adapter, multiplied in fp32",
        "8bit": "int8 weights and the adapter; inputs are rounded to 8 bits, too",
        "fp32": "weights and adapter in fp32" if config.has_adapter else "weights in fp32",
    }
    return session, said[stored]


def merge(run: RunDir, step: int, into: Into = "trained") -> Merged:
    """The run's state as one model.

    Raises:
        LabError: it cannot be opened.
        ModelError: it does not fit into memory.
    """
    config = run.config_as(FineTuneConfig)
    session = open_session(f"{run.run_id}@{step}", precision="fp32", device="cpu")
    if not config.has_adapter:
        return Merged(session.model, session.tokenizer, "every weight was trained")
    said = f"the weights of {config.model.model} in fp32"
    if config.model.method in ("qlora", "lora_8bit"):
        bits = "4bit" if config.model.method == "qlora" else "8bit"
        name = "NF4" if bits == "4bit" else "int8"
        if into == "trained":
            _make_coarse(unwrapped(session.model), config.model.model, bits)
            said = f"the {name} weights of {config.model.model} that it was trained beside, written out in fp32"
        else:
            said = f"the original weights of {config.model.model}, not the {name} ones that it was trained beside"
    wrapped: Any = session.model
    if is_gpt(wrapped):
        merged = _merged_gpt(wrapped, session.variant)
    else:
        merged = wrapped.merge_and_unload(adapter_names=[session.variant])
    return Merged(merged, session.tokenizer, said)


def _merged_gpt(wrapped: nn.Module, variant: str) -> nn.Module:
    """The lab's own GPT without peft's layers; peft's `merge_and_unload` asks for a config of transformers."""
    model = unwrapped(wrapped)
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer"):
            layer: Any = module
            layer.merge(adapter_names=[variant])
            model.set_submodule(name, layer.base_layer)
    return model


def is_gpt(model: nn.Module) -> bool:
    """Whether it is the lab's own."""
    return isinstance(unwrapped(model), GPTModel)


def in_fp32(model: nn.Module) -> None:
    """Compute in 32 bits: weights keep their values, stored ones in 4 or 8 bits are written out to be multiplied."""
    compute_in(model, torch.float32)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def _make_coarse(model: nn.Module, base: str, bits: str) -> None:
    """Put the values of the model in 4 or 8 bits in place of the original ones; what stayed in 16 bits, too."""
    coarse = open_session(base, precision=cast(Any, bits), device="cpu").model
    plain = dict(model.named_modules())
    for name, module in coarse.named_modules():
        target = plain[name]
        own = getattr(target, "base_layer", target)  # inside peft's wrapper
        for kind, parameter in module.named_parameters(recurse=False):
            values, mine = written_out(parameter), getattr(own, kind)
            if mine.shape != values.shape:
                raise ModelError(f"{kind} of {name} has another shape in {bits}: nothing was merged.")
            mine.data = values.float()


def written_out(parameter: Any, scales: Tensor | None = None) -> Tensor:
    """The numbers that a stored weight stands for; it stays as it is.

    Args:
        scales: of a weight in 8 bits [out], where they are not with it: bitsandbytes moves them at the first pass.
    """
    if getattr(parameter, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit  # not on every system

        return dequantize_4bit(parameter.data, parameter.quant_state)
    scales = getattr(parameter, "SCB", None) if scales is None else scales
    if scales is not None:
        return parameter.data.float() * (scales.float() / 127)[:, None]
    return parameter.data
