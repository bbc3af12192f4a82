"""How much memory there is, and whether a need fits into it."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lab.forecast.rules import GIB, MIB, Device

Colour = Literal["green", "amber", "red"]

CUDA_CONTEXT = 500 * MIB
"""What the CUDA driver and loaded kernels take before the first tensor: 0.3 to 1 GB, by driver and device."""

CUBLAS_WORKSPACE = 2 * (2 * 4096 + 8 * 16) * 1024
"""cuBLAS keeps 2 × 4 MiB and 8 × 16 KiB (PyTorch's default on GPUs before Hopper) for the forward thread and as much
for the backward thread, from the same allocator as the tensors."""

FRAGMENTATION = 0.04
"""Share of the peak that CUDA's allocator reserves beyond what is allocated; 0.02 to 0.1 is usual."""

CPU_PROCESS = 350 * MIB
"""Python with PyTorch loaded, before the first tensor."""

RESERVE = {"cuda": 256 * MIB, "cpu": 1 * GIB}
"""Left free: on a GPU for the desktop, on a CPU for the operating system and the app."""

COMFORTABLE = 0.9
"""Up to this share of the limit the answer is green, above it amber: what is modelled may be wrong by that much."""


@dataclass(frozen=True)
class Modelled:
    """A part of the need that no replay sees: known from experience, and shown apart."""

    name: str
    bytes: int
    why: str


def modelled(device: Device, peak_bytes: int) -> tuple[Modelled, ...]:
    """What comes on top of the tensors."""
    if device == "cpu":
        return (Modelled("process", CPU_PROCESS, "Python and PyTorch themselves, before the first tensor"),)
    return (
        Modelled("context", CUDA_CONTEXT, "the CUDA driver's own memory and the loaded kernels; 0.3 to 1 GB"),
        Modelled("workspace", CUBLAS_WORKSPACE, "scratch space of the matrix products"),
        Modelled(
            "fragmentation",
            round(FRAGMENTATION * peak_bytes),
            "gaps between tensors that the allocator holds but cannot use; 2 to 10 % of the peak",
        ),
    )


def reserved_on_top(parts: tuple[Modelled, ...]) -> int:
    """Bytes that CUDA's allocator holds beyond the tensors: workspace and fragmentation."""
    return sum(part.bytes for part in parts if part.name in ("workspace", "fragmentation"))


@dataclass(frozen=True)
class Budget:
    """Memory that a run may use. All figures in bytes."""

    name: str
    device: Device
    total_bytes: int

    @property
    def reserve_bytes(self) -> int:
        return RESERVE[self.device]

    @property
    def context_bytes(self) -> int:
        return CUDA_CONTEXT if self.device == "cuda" else CPU_PROCESS

    @property
    def limit_bytes(self) -> int:
        """What is left for tensors: all, less context, less reserve."""
        return max(0, self.total_bytes - self.context_bytes - self.reserve_bytes)

    def verdict(self, tensor_bytes: int) -> "Verdict":
        """Judge a need for tensors, workspace and fragmentation; context and reserve are off the limit already."""
        limit = self.limit_bytes
        colour: Colour = "red"
        if tensor_bytes <= limit:
            colour = "green" if tensor_bytes <= COMFORTABLE * limit else "amber"
        return Verdict(self, colour, limit - tensor_bytes)


@dataclass(frozen=True)
class Verdict:
    """Whether a need fits."""

    budget: Budget
    colour: Colour
    """green: with room; amber: narrowly, and what is modelled may be off; red: not."""
    margin_bytes: int
    """What is left; negative: what is missing."""

    @property
    def fits(self) -> bool:
        return self.margin_bytes >= 0

    @property
    def sentence(self) -> str:
        gib = abs(self.margin_bytes) / GIB
        if self.colour == "green":
            return f"Fits in {self.budget.name} with {gib:.1f} GiB to spare."
        if self.colour == "amber":
            return f"Fits in {self.budget.name} narrowly: {gib:.1f} GiB to spare."
        return f"Does not fit in {self.budget.name}: {gib:.1f} GiB are missing."


def gpu_budget(gib: float = 16.0) -> Budget:
    """A GPU of that size."""
    return Budget(f"{gib:g} GB", "cuda", round(gib * GIB))


def this_device(device: Device) -> Budget:
    """The device the run would use here."""
    if device == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        return Budget(f"this GPU ({properties.name})", "cuda", properties.total_memory)
    return Budget("this computer's memory", "cpu", min(psutil.virtual_memory().total, _container_limit()))


def free_memory() -> tuple[int, int]:
    """Bytes that a process could still have on this computer: without swapping, and at most.

    Beyond the second the system ends a process. Where swap grows by itself (macOS) nobody knows that number: it is all
    of the memory then.
    """
    memory = psutil.virtual_memory()
    container = _container_limit() - _container_use()
    free = min(memory.available, container)
    if sys.platform != "linux":
        return free, memory.total
    return free, min(memory.available + psutil.swap_memory().free, container)


_CGROUP = Path("/sys/fs/cgroup")
_ENDLESS = 1 << 62


def _container_limit() -> int:
    """Bytes that this process' control group may use; in a container less than the machine has."""
    return _number(_CGROUP / "memory.max", _ENDLESS)


def _container_use() -> int:
    """Bytes that it uses and could not give back at once; 0 where it has no limit."""
    if _container_limit() == _ENDLESS:
        return 0
    cached = 0
    with suppress(OSError):
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, _number(_CGROUP / "memory.current", 0) - cached)


def _number(path: Path, otherwise: int) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return otherwise
    return int(text) if text.isdigit() else otherwise
