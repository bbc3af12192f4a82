"""Dropout whose mask is a pure function of (seed, step, micro-step, module).

`nn.Dropout` draws from torch's default generator, which every thread of the process shares: a page that
samples from another model would change this run's masks, and a resumed run would see others than the run it
continues. Here every mask has a seed of its own, so it is the same under noise from other threads, after a
resume, and when gradient checkpointing computes a block a second time.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class DropoutClock:
    """Where training stands; the trainer moves it, all masks of a model read it."""

    seed: int
    step: int = 0
    micro_step: int = 0


class SeededDropout(nn.Module):
    """Sets a share `p` of its input to zero in training, and scales the rest by 1 / (1 − p)."""

    def __init__(self, p: float, name: str, clock: DropoutClock):
        super().__init__()
        self.p = p
        self.name = name
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if not self.training or self.p == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self._generator(x.device))
        return x * keep / (1 - self.p)

    def _generator(self, device: torch.device) -> torch.Generator:
        clock = self.clock
        place = f"{clock.seed}/{clock.step}/{clock.micro_step}/{self.name}".encode()
        seed = int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "big") >> 1
        return torch.Generator(device).manual_seed(seed)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seed_dropout(model: nn.Module, seed: int) -> DropoutClock:
    """Replace every `nn.Dropout` inside `model` by a seeded one; returns the clock that all of them read."""
    clock = DropoutClock(seed)
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                full_name = f"{name}.{child_name}" if name else child_name
                setattr(module, child_name, SeededDropout(child.p, full_name, clock))
    return clock
