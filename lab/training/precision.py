"""Number formats: which parts of a step run in 16 bits, and fp16's loss scaling."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

PrecisionName = Literal["fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """How the forward pass computes. Weights, gradients and optimizer state stay in fp32."""

    name: PrecisionName
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products inside run in this precision; sums and norms stay in fp32."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """fp16 has 5 bits of exponent: small gradients would become 0. So the loss is multiplied by a large
        number before the backward pass, and the gradients divided by it before they are used. bf16 has the
        exponent of fp32 and needs none of this; the scaler then does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def resolve_device(wanted: str) -> torch.device:
    """`auto`, or a name, to a device that is here.

    Raises:
        ConfigError: it is not here.
    """
    from lab.errors import ConfigError

    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if here[name]))
    if not here[wanted]:
        present = ", ".join(name for name, is_here in here.items() if is_here)
        raise ConfigError([f"device is {wanted!r}, but this machine has only {present}; choose auto or one of those."])
    return torch.device(wanted)
