"""A run's account of its memory: the forecast before it, what was measured, and what would fit where it was too little.

All of it stands in the run's folder and, as predictions and events, in the record.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from lab.config import RunConfig
from lab.errors import TrainingError
from lab.files import write_json
from lab.rundir import RunDir
from lab.training.contracts import Recorder, Say
from lab.training.memory import Adviser, Change, MemoryWatch, TooLargeError, as_documents

if TYPE_CHECKING:
    from lab.training.trainer import Trainer

MEMORY_METRIC = "system/memory_gib"
"""On CUDA the most that the allocator handed out; on a CPU by how much the process grew."""
STEP_METRIC = "system/step_memory_gib"
"""The most tensors of one real step, followed one by one; on a CPU only."""
RESERVED_METRIC = "system/reserved_memory_gib"
"""The most that CUDA's allocator held, gaps and all."""

GIB = 2**30


class MemoryAccount:
    """What one process' work on a run takes.

    Args:
        adviser: knows the need in advance; without one only the measurement is kept.
    """

    def __init__(self, run: RunDir, device: torch.device, recorder: Recorder, say: Say, adviser: Adviser | None):
        self.run, self.recorder, self.say, self.adviser = run, recorder, say, adviser
        self.watch = MemoryWatch(device)
        self._foreseen: list[Mapping[str, Any]] = []

    def foresee(self, config: RunConfig) -> None:
        """Record what the run is going to need, once: a resumed run is the same run.

        Raises:
            TrainingError: it would not fit into this machine.
        """
        if self.adviser is None:
            self.watch.forget_peak()  # deciding on the precision took steps in others, too
            return
        try:
            with self.watch.aside():
                foreseen = self.adviser.foresee(config)
        except TooLargeError as error:
            what = f"Not started: {error}"
            raise TrainingError(f"{what} {self.advise(config, what, 'start', 0, error.limit_bytes)}") from error
        self.watch.forget_peak()
        if foreseen is None:
            return
        if foreseen.warning:
            self.say("warning", "warning", foreseen.warning)
        needs = {MEMORY_METRIC: foreseen.needed_bytes}
        if foreseen.step_bytes is not None:
            needs[STEP_METRIC] = foreseen.step_bytes
        if foreseen.reserved_bytes is not None:
            needs[RESERVED_METRIC] = foreseen.reserved_bytes
        if "memory" not in self.run.info():
            self.recorder.rows(
                "predictions",
                [{"metric": name, "predicted": size / GIB, "who": "forecast"} for name, size in needs.items()],
            )
        self.run.update_info(
            memory={"forecast_bytes": foreseen.needed_bytes, "step_forecast_bytes": foreseen.step_bytes},
            out_of_memory=None,
        )
        self._foreseen = list(foreseen.curve)
        self._write_curves([])

    @contextmanager
    def follow(self, trainer: "Trainer") -> Iterator[None]:
        """Within this the trainer takes one real step, which is laid beside the forecast."""
        if self.adviser is None:
            yield
            return
        with self.adviser.follow(trainer) as followed:
            yield
        if followed.peak_bytes is not None:
            self._note(step_measured_bytes=followed.peak_bytes)
            self._write_curves(list(followed.curve))

    def settle(self) -> dict[str, float]:
        """What was measured, in GiB by metric; empty where the system does not tell."""
        peak, reserved = self.watch.peak_bytes(), self.watch.reserved_bytes()
        if peak is None:
            return {}
        self._note(measured_bytes=peak, reserved_bytes=reserved, before_bytes=self.watch.before_bytes)
        sizes = {
            MEMORY_METRIC: peak,
            RESERVED_METRIC: reserved,
            STEP_METRIC: self.run.info()["memory"].get("step_measured_bytes"),
        }
        return {name: size / GIB for name, size in sizes.items() if size is not None}

    def advise(self, config: RunConfig, what: str, phase: str, step: int, limit_bytes: int) -> str:
        """Find out what would fit and write it down; returns it as a sentence."""
        changes: Sequence[Change] = []
        if self.adviser is not None:
            with suppress(MemoryError, RuntimeError):  # to think about what fits takes a little memory, too
                changes = self.adviser.out_of_memory(config, limit_bytes)
        self.run.update_info(out_of_memory={"phase": phase, "step": step, "advice": as_documents(changes)})
        fits = "; or ".join(change.sentence for change in changes)
        do = f"What would fit: {fits}." if changes else "Take a smaller batch, context or model."
        self.say("error", "out_of_memory", f"{what} {do}")
        return do

    def _write_curves(self, measured: list[Mapping[str, Any]]) -> None:
        write_json(self.run.memory_path, {"forecast": self._foreseen, "measured": measured})

    def _note(self, **values: Any) -> None:
        self.run.update_info(memory={**(self.run.info().get("memory") or {}), **values})
