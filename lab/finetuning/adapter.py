"""LoRA: small matrices beside frozen ones.

A layer y = W x becomes y = W x + (alpha / rank) B A x. A shrinks x to `rank` numbers, B widens them again; only these
two learn. B begins at zero, so that training starts from the model as it is. The layers are peft's own.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.config import FineTuneModelConfig
from lab.errors import ModelError
from lab.files import write_atomically, write_bytes
from lab.models.families import anatomy, unwrapped
from lab.models.gpt import GPTModel

FOLDER = "adapter"
"""Of a run: what it learnt, as peft writes it."""
NAME = "default"
"""peft's name of the adapter that trains."""


@dataclass(frozen=True)
class Targets:
    """The layers that get an adapter."""

    names: tuple[str, ...]
    """Within the whole model."""
    endings: tuple[str, ...]
    """The same for peft: names within a block where that is enough, else whole names."""
    family: str
    """Empty for one that the lab does not know: then these are all linear layers inside its blocks."""


def targets(model: nn.Module, chosen: str = "all_linear") -> Targets:
    """The linear layers of a model's blocks that an adapter goes beside.

    Args:
        chosen: all_linear, attention or mlp.

    Raises:
        ModelError: there are none, or the family is unknown and not all are asked for.
    """
    model = unwrapped(model)
    try:
        parts = anatomy(model)
        family, blocks = parts.family, [(block.module, block.attention) for block in parts.blocks]
    except ModelError as error:
        if chosen != "all_linear":
            raise ModelError(f"{error} So its attention cannot be told from the rest: choose all_linear.") from error
        family, blocks = "", [(block, block) for block in _longest_list(model)]
    names = {id(module): name for name, module in model.named_modules()}
    found: list[str] = []
    endings: set[str] = set()
    for block, attention in blocks:
        inside = set(attention.modules())
        for name, module in block.named_modules():
            if _is_linear(module) and (chosen == "all_linear" or (module in inside) == (chosen == "attention")):
                found.append(names[id(module)])
                endings.add(name)
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layers that an adapter could go beside.")
    if set(_matches(model, endings)) != set(found):
        endings = set(found)
    return Targets(tuple(found), tuple(sorted(endings)), family)


def attach(model: nn.Module, config: FineTuneModelConfig, seed: int, *, address: str) -> tuple[nn.Module, Targets]:
    """Put an adapter on a model; everything else is frozen from here on.

    Not through peft's `prepare_model_for_kbit_training`: that turns embeddings and output layer into fp32, several GiB
    on a large model. First weights are a function of the seed alone, and no generator that others share is moved.

    Args:
        address: what the adapter's file says that it belongs to.

    Raises:
        ModelError: as `targets`.
    """
    wrapped, found = wrap(model, config, address=address)
    first_weights(wrapped, seed)
    return wrapped, found


def wrap(model: nn.Module, config: FineTuneModelConfig, *, address: str) -> tuple[nn.Module, Targets]:
    """Put an adapter on a model whose first weights nobody has drawn yet; also where the model takes no memory.

    Raises:
        ModelError: as `targets`.
    """
    from peft import LoraConfig, get_peft_model

    found = targets(model, config.target_modules)
    is_ours = isinstance(model, GPTModel)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=list(found.endings),
        fan_in_fan_out=_has_conv1d(model, found),
        task_type=None if is_ours else "CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        wrapped = get_peft_model(model, settings, adapter_name=NAME)
    wrapped.peft_config[NAME].base_model_name_or_path = address
    return wrapped, found


@torch.no_grad()
def first_weights(model: nn.Module, seed: int) -> None:
    """Fill every A as peft does (uniform, by Kaiming), from a generator of our own; every B is zero already."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if f".lora_A.{NAME}." in name:
            drawn = torch.empty(parameter.shape, dtype=torch.float32)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            parameter.copy_(drawn)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What trains, on the CPU and by the names that peft's files use."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()}


def write_adapter_config(model: Any, folder: Path) -> None:
    """Write adapter_config.json: with it a checkpoint of the run is an adapter.

    Raises:
        LabError: the folder cannot be written.
    """
    import json

    settings = model.peft_config[NAME].to_dict()
    settings["inference_mode"] = True
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    write_bytes(folder / "adapter_config.json", json.dumps(plain, indent=2, sort_keys=True, default=str).encode())


def write_adapter(model: nn.Module, folder: Path) -> Path:
    """Write what trains as peft does: `PeftModel.from_pretrained(base, folder)` loads it.

    Returns:
        The folder.

    Raises:
        LabError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    write_adapter_config(model, folder)
    tensors = adapter_tensors(model)
    write_atomically(
        folder / "adapter_model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"})
    )
    return folder


def _is_linear(module: nn.Module) -> bool:
    """Plain, GPT-2's transposed one, or bitsandbytes' in 4 and 8 bits, which are `nn.Linear` too."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _has_conv1d(model: nn.Module, found: Targets) -> bool:
    return type(model.get_submodule(found.names[0])).__name__ == "Conv1D"


def _matches(model: nn.Module, endings: set[str]) -> list[str]:
    """The modules that peft would take for these endings."""
    return [
        name
        for name, _ in model.named_modules()
        if any(name == ending or name.endswith(f".{ending}") for ending in endings)
    ]


def _longest_list(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model whose family nobody described: its longest list of modules that are all alike."""
    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of blocks, so no adapter can be put on it.")
    return max(lists, key=len)
