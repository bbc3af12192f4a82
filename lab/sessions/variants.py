"""A model in memory and the adapters that lie on it: one copy of the weights, and one variant active at a time.

PEFT keeps adapters as small matrices beside the layers they change, so base and tuned are the same model with a switch.
The switch belongs to the model, not to who asks: whoever asks takes the lock, sets it, and puts it back.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lab.errors import ModelError

BASE = "base"
"""The name of a model without any adapter."""
MOST = 8
"""Adapters that lie on one model; the one added longest ago goes. Sliding over a run's checkpoints adds many."""


class Weights:
    """The model, its lock, its adapters by name, and which of them is active."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.lock = threading.RLock()
        self.active = BASE
        self.adapters: list[str] = []

    def add(self, name: str, folder: Path, *, title: str, tensors: dict[str, Tensor] | None = None) -> None:
        """Put an adapter beside the others. Which one is active stays as it was.

        Args:
            folder: as PEFT writes it: adapter_config.json, and its weights unless `tensors` are given.
            title: what the sentences call the base.
            tensors: weights of this adapter, named as PEFT's file names them.

        Raises:
            ModelError: the folder holds none, it does not fit this model, or the name is taken.
        """
        if name in (BASE, *self.adapters):
            raise ModelError(f"There is already a variant {name!r}: choose another name.")
        if not (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder} holds no adapter: it needs adapter_config.json, as PEFT writes it.")
        with self.lock:
            try:
                self._load(name, folder, tensors)
            except (ValueError, RuntimeError, OSError, KeyError) as error:
                raise ModelError(
                    f"The adapter in {folder} does not fit {title}: {str(error).splitlines()[0]}"
                ) from error
            self.model.eval()
            self.adapters.append(name)
            before, self.active = self.active, name
            self.model.set_adapter(name)  # type: ignore[operator] # the first one is on already, later ones are not
            for old in self.adapters[:-MOST]:
                if old != before:
                    self.model.delete_adapter(old)  # type: ignore[operator]
                    self.adapters.remove(old)
            self.switch(before)

    def _load(self, name: str, folder: Path, tensors: dict[str, Tensor] | None) -> None:
        # low_cpu_mem_usage: laid out without memory first, so that no random number is drawn from the generator that a
        # running training's neighbours share
        from peft import PeftConfig, PeftModel, set_peft_model_state_dict

        wrapped: Any = self.model
        if tensors is None and isinstance(self.model, PeftModel):
            wrapped.load_adapter(str(folder), adapter_name=name, low_cpu_mem_usage=True)
        elif tensors is None:
            self.model = PeftModel.from_pretrained(wrapped, str(folder), adapter_name=name, low_cpu_mem_usage=True)
        else:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            if isinstance(self.model, PeftModel):
                wrapped.add_adapter(name, config, low_cpu_mem_usage=True)
            else:
                self.model = PeftModel(wrapped, config, adapter_name=name, low_cpu_mem_usage=True)
            found = set_peft_model_state_dict(self.model, tensors, adapter_name=name, low_cpu_mem_usage=True)
            if found.unexpected_keys:
                raise KeyError(f"it has weights for {found.unexpected_keys[0]}, which this model lacks")
            device = next(self.model.parameters()).device
            for parameter_name, parameter in self.model.named_parameters():
                if f".{name}." in parameter_name and parameter.device != device:
                    if parameter.is_meta:
                        raise KeyError(f"it lacks weights for {parameter_name}")
                    parameter.data = parameter.data.to(device)
            self.model.requires_grad_(False)

    @contextmanager
    def following(self, variant: str) -> Iterator[None]:
        """The model follows `variant` for as long as this lasts; then what it followed before. For who has the lock.

        Raises:
            ModelError: that adapter does not lie here any more.
        """
        before = self.active
        self.switch(variant)
        try:
            yield
        finally:
            self.switch(before)

    def switch(self, variant: str) -> None:
        """Make the model follow `variant`. For who has the lock."""
        if variant == self.active:
            return
        if variant != BASE and variant not in self.adapters:
            raise ModelError(f"The adapter {variant!r} was put away to make room for others: open it again.")
        layers: Any = self.model.base_model
        if variant == BASE:
            layers.disable_adapter_layers()
        else:
            layers.enable_adapter_layers()
            self.model.set_adapter(variant)  # type: ignore[operator]
        self.active = variant


def variant_name(text: str) -> str:
    """A name that PEFT can keep an adapter under: it becomes part of module names, where a dot divides."""
    return re.sub(r"[^\w@-]+", "-", text)
