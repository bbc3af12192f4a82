"""An adapter made part of the weights: W + scale · B · A, summed in 32 bits.

An adapter that was trained beside weights in 4 or 8 bits may be added to one of two things. "trained": the coarse
weights, written out again as ordinary numbers; that is the model that was trained. "original": the weights as they were
before they were made coarse; the adapter has learnt to correct an error that is not there, so this is another model.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from lab.config import FineTuneConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import ModelError
from lab.models.families import unwrapped
from lab.models.gpt import GPTModel
from lab.rundir import RunDir
from lab.sessions.opening import open_session
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
    session = open_session(f"{run.run_id}@{step}", precision=cast(Any, stored), device="cpu")
    for module in session.model.modules():
        if hasattr(module, "compute_dtype"):  # 4-bit weights are written out in this format to be multiplied
            module.compute_dtype = torch.float32  # type: ignore[assignment]
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
    merged = wrapped.merge_and_unload(adapter_names=[session.variant])
    return Merged(merged, session.tokenizer, said)


def is_gpt(model: nn.Module) -> bool:
    """Whether it is the lab's own."""
    return isinstance(unwrapped(model), GPTModel)


def _make_coarse(model: nn.Module, base: str, bits: str) -> None:
    """Put the values of the 4- or 8-bit weights in place of the original ones."""
    from bitsandbytes.functional import dequantize_4bit

    coarse = open_session(base, precision=cast(Any, bits), device="cpu").model
    plain = dict(model.named_modules())
    for name, module in coarse.named_modules():
        weight: Any = getattr(module, "weight", None)
        target = plain.get(name)
        if weight is None or target is None:
            continue
        if getattr(weight, "quant_state", None) is not None:
            values = dequantize_4bit(weight.data, weight.quant_state)
        elif getattr(weight, "SCB", None) is not None:
            values = weight.data.float() * (weight.SCB.float() / 127)[:, None]
        else:
            continue
        own = _weight_of(target)
        if own.shape != values.shape:
            raise ModelError(f"The weights of {name} have another shape in {bits}: nothing was merged.")
        own.data = values.float()


def _weight_of(module: nn.Module) -> nn.Parameter:
    """Of a layer, or of the one inside peft's wrapper."""
    base = getattr(module, "base_layer", module)
    return cast(nn.Parameter, base.weight)
