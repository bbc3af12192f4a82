"""What this machine is good at, measured on the model that is about to train, and remembered.

`auto` settings are decided here. A measurement beats a rule: bf16 is up to three times faster than fp32 on a
CPU with the instructions for it and slower on one without, and a second thread pays only where it is free.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab import paths
from lab.config import GPTConfig
from lab.cores import BusyCores, cores
from lab.errors import LabError
from lab.files import read_json, write_json
from lab.training.precision import Precision, PrecisionName
from lab.training.threads import use_threads

_MEASURE_S = 1.0
_QUIET = 0.5  # of a core, that other things may take while it is measured
_QUIET_PATIENCE_S = 5.0
_PEAK_S = 0.2
_SIZE = {"cpu": 1024, "cuda": 8192, "mps": 2048}  # of the square matrices for the peak: past all fixed costs


@dataclass(frozen=True)
class Choice:
    """What is used, and the sentence that says why."""

    precision: PrecisionName
    threads: int
    reason: str


def thread_candidates() -> list[int]:
    """All cores, and all but one: the app, DuckDB and the browser want a turn too."""
    n = cores()
    return sorted({n, max(1, n - 1)}, reverse=True)


def choose_compute(
    precisions: list[PrecisionName],
    threads: list[int],
    device: torch.device,
    shape: GPTConfig | str,
    one_step: Callable[[Precision], None],
) -> Choice:
    """The fastest of the given precisions and thread counts for forward and backward of this model.

    Args:
        shape: of the model, or a text that says it: what was measured is remembered for it.
        one_step: runs a small forward and backward pass in the given precision.
    """
    candidates = [(name, count) for name in precisions for count in threads]
    if len(candidates) == 1:
        use_threads(threads[0])
        return Choice(precisions[0], threads[0], f"{precisions[0]} on {threads[0]} CPU threads, as set")
    key = f"{_name(device)}/torch {torch.__version__}/{precisions}/{threads}/{_shape_key(shape)}"
    known = _remembered("choices").get(key)
    if known is None:
        _wait_for_quiet()
        seconds = _time_all(candidates, device, one_step)
        best = min(seconds, key=lambda candidate: seconds[candidate])
        listed = ", ".join(f"{name} on {count} threads {1000 * s:.0f} ms" for (name, count), s in seconds.items())
        known = [best[0], best[1], f"{best[0]} on {best[1]} threads: the fastest measured here ({listed})"]
        _remember("choices", key, known)
    use_threads(known[1])
    return Choice(known[0], known[1], known[2])


def matmul_peak(precision: Precision, threads: int) -> float:
    """Floating point operations per second of a large matrix product, the 100 % of MFU.

    The best that was ever measured here, since anything slower was disturbed; each run looks again for a moment.
    """
    key = f"{_name(precision.device)}/torch {torch.__version__}/{precision.name}/{threads} threads"
    known = _remembered("matmul").get(key, 0.0)
    size = _SIZE[precision.device.type]
    left, right = (torch.ones(size, size, device=precision.device, dtype=precision.dtype) for _ in range(2))
    best, deadline = float("inf"), time.perf_counter() + _PEAK_S
    while time.perf_counter() < deadline or best == float("inf"):
        started = time.perf_counter()
        left @ right
        _wait(precision.device)
        best = min(best, time.perf_counter() - started)
    flops = 2 * size**3 / best
    if flops > known:
        _remember("matmul", key, flops)
    return max(flops, known)


def available_precisions(device: torch.device) -> list[PrecisionName]:
    """What `auto` chooses from. fp16 only where bf16 is missing: it needs loss scaling."""
    if device.type == "cuda":
        return ["fp32", "bf16" if torch.cuda.is_bf16_supported() else "fp16"]
    return ["fp32", "bf16"] if device.type == "cpu" else ["fp32"]


def set_tf32(device: torch.device, on: bool) -> None:
    """Let fp32 matrix products on a CUDA GPU use 10-bit mantissas, or not. Other devices have no such format."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if on else "highest")


def _time_all(
    candidates: list[tuple[PrecisionName, int]], device: torch.device, one_step: Callable[[Precision], None]
) -> dict[tuple[PrecisionName, int], float]:
    """Seconds of a step for each candidate; taken in turn, so that a busy moment hits all alike. Of each the lower
    quartile: a page that is just being drawn takes a core for half of this second, and would be remembered for good.
    """
    taken: dict[tuple[PrecisionName, int], list[float]] = {candidate: [] for candidate in candidates}
    deadline = None
    while deadline is None or time.perf_counter() < deadline:
        for name, count in candidates:
            use_threads(count)
            started = time.perf_counter()
            one_step(Precision(name, device))
            _wait(device)
            taken[name, count].append(time.perf_counter() - started)
        if deadline is None:  # the first round warms up and does not count
            deadline = time.perf_counter() + _MEASURE_S
            first = {candidate: rounds.pop() for candidate, rounds in taken.items()}
            if sum(first.values()) > _MEASURE_S:
                return first  # steps this long are their own warm-up
    return {candidate: sorted(rounds)[len(rounds) // 4] for candidate, rounds in taken.items()}


def _wait_for_quiet() -> None:
    """Let the page be drawn first that the run was started from: measured beside that, one thread looks better than
    two, and would be remembered. What has made way for others (its niceness) does not disturb; what goes on, goes on.
    """
    deadline, busy = time.perf_counter() + _QUIET_PATIENCE_S, BusyCores()
    while time.perf_counter() < deadline:
        time.sleep(0.25)
        if busy.look() < _QUIET:
            return


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.node()} {platform.machine()} {cores()} cores {device.type}"


def _shape_key(shape: GPTConfig | str) -> str:
    if isinstance(shape, str):
        return shape
    return f"{shape.n_layers}x{shape.emb_dim}x{shape.n_heads}x{shape.context_length}x{shape.vocab_size}"


def _remembered(what: str) -> dict[str, Any]:
    return _memory().get(what, {})


def _remember(what: str, key: str, value: object) -> None:
    content = _memory()
    content.setdefault(what, {})[key] = value
    write_json(_memory_path(), content)


def _memory() -> dict[str, Any]:
    try:
        return read_json(_memory_path())
    except LabError:
        return {}  # not there yet, or damaged: it can be measured again


def _memory_path() -> Path:
    return paths.cache() / "machine.json"
