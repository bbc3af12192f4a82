"""Looking at the adapter while it learns: at each evaluation, how far it has moved every layer, into the record.

How long ΔW is says little by itself: layers differ in size, and so do their weights. Against the length of the layer's
own W it says what share of the layer is new.
"""

from typing import Any

import torch
from torch import nn

from lab.finetuning.adapter import NAME, adapter_tensors
from lab.finetuning.delta import layer_deltas, place_of
from lab.finetuning.merge import written_out
from lab.models.families import unwrapped
from lab.training.contracts import Row

TEXT = "adapter"
"""What `text` says in layer_stats: nothing was read, the weights themselves were looked at."""
BASE_NORM = "base_norm"


class AdapterWatch:
    """A probe: rows of layer_stats, by layer and part of the block.

    `norm` (Frobenius norm of ΔW), `relative` (to that of the layer's own W), `effective_rank`; and once, at its first
    look, `base_norm`, that of W.
    """

    def __init__(self) -> None:
        self._own: dict[str, float] = {}

    def __call__(self, model: nn.Module, step: int) -> tuple[str, list[Row]]:
        rows: list[Row] = []
        if not self._own:
            self._own = base_norms(model)
            for module, norm in self._own.items():
                rows.append(_row(step, *place_of(module), BASE_NORM, norm))
        wrapped: Any = model
        settings = wrapped.peft_config[NAME].to_dict()
        for one in layer_deltas(adapter_tensors(model), settings, self._own.get):
            values = {"norm": one.norm, "relative": one.relative, "effective_rank": one.effective_rank}
            rows += [
                _row(step, one.layer, one.part, name, value) for name, value in values.items() if value is not None
            ]
        return "layer_stats", rows


@torch.no_grad()
def base_norms(model: nn.Module) -> dict[str, float]:
    """Frobenius norm of the frozen weights beside every adapter, by the module's name in the base model. Weights that
    are stored in 4 or 8 bits are measured as the numbers that they stand for, one layer at a time."""
    found = {}
    for name, module in unwrapped(model).named_modules():
        if NAME in getattr(module, "lora_A", ()):
            layer: Any = module
            own = layer.get_base_layer()
            weight = written_out(own.weight, getattr(getattr(own, "state", None), "SCB", None))
            found[name] = float(torch.linalg.vector_norm(weight.float()))
    return found


def _row(step: int, layer: int, part: str, name: str, value: float) -> Row:
    return {"step": step, "text": TEXT, "layer": layer, "point": part, "name": name, "value": value}
