"""This machine, as far as it can be told without loading PyTorch."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import streamlit as st

from lab import paths

_ASK_GPU_S = 5  # seconds that nvidia-smi may take


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one trains on."""

    processor: str
    cores: int
    threads: int
    memory: int
    """Bytes."""
    memory_free: int
    disk_free: int
    """Bytes where the lab writes."""
    gpus: tuple[str, ...]
    torch: str


def machine() -> Machine:
    """Look at the machine now."""
    memory = psutil.virtual_memory()
    return Machine(
        processor=processor_name(),
        cores=psutil.cpu_count(logical=False) or 1,
        threads=usable_threads(),
        memory=memory.total,
        memory_free=memory.available,
        disk_free=psutil.disk_usage(str(paths.home())).free,
        gpus=gpu_names(),
        torch=metadata.version("torch"),
    )


def usable_threads() -> int:
    """Threads that this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    return bool(gpu_names())


@st.cache_data(show_spinner=False)
def gpu_names() -> tuple[str, ...]:
    """NVIDIA GPUs by name, asked of the driver; Apple's by the kind of machine. Asked once."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("Apple GPU",)
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_ASK_GPU_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver that does not answer is as good as none
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def processor_name() -> str:
    """The processor as its maker calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
