"""The cores of this machine: how many there are, how many are in use, and work that makes way for a training."""

import contextlib
import os
import time
from dataclasses import dataclass, field

import psutil


def cores() -> int:
    """CPU cores that this process may use, without hyper-threads."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def make_way(process: int) -> None:
    """Let a process of ours compute only when nobody else wants the core.

    Niceness alone is not enough: a training's threads wait for each other thousands of times a second, and a query
    at niceness 19 took half of its pace on two cores; in Linux' idle class it took a tenth. The niceness is set all
    the same: niced work is told apart from other work in the system's own count (`BusyCores`).
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        if hasattr(os, "sched_setscheduler"):
            psutil.Process(process).nice(19)
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))
        elif hasattr(psutil, "IDLE_PRIORITY_CLASS"):
            psutil.Process(process).nice(psutil.IDLE_PRIORITY_CLASS)
        else:
            psutil.Process(process).nice(19)


@dataclass
class BusyCores:
    """Counts the cores in use since the last look, but for niced work, which makes way by itself."""

    _at: float = field(default_factory=time.perf_counter)
    _used: float = field(default_factory=lambda: _used())

    def look(self) -> float:
        """Cores that were in use, on average, since this was made or last looked at."""
        at, used = time.perf_counter(), _used()
        busy = (used - self._used) / max(at - self._at, 1e-3)
        self._at, self._used = at, used
        return busy


def _used() -> float:
    """Seconds of all cores together since the machine was started."""
    times = psutil.cpu_times()
    return times.user + times.system
