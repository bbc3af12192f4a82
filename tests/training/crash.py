"""Training in processes of their own, that can be killed at any moment.

They are forked from a server that has torch loaded already: a killed and resumed run costs no import.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

_NEEDED = [
    "lab.training.run", "lab.store", "lab.models.gpt", "tests.training.noise", "bitsandbytes.optim",
    "torch._dynamo",  # loaded by torch itself at the first update
    "pyarrow.parquet",
]  # fmt: skip


def server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_NEEDED)
    return context


def train_here(home: str, run_id: str, llama: str | None, rest_s: float = 0.0) -> None:
    """The whole life of a process that trains a run, with a page beside it that samples from another model.

    `rest_s` after each step leaves time to kill it in.
    """
    os.environ["LAB_HOME"] = home
    import time
    from contextlib import nullcontext

    from lab.rundir import find_run
    from lab.training import machine
    from lab.training.run import train_run
    from lab.training.trainer import Trainer
    from tests.training.noise import beside, load_llama_and_sample

    machine._SIZE = {"cpu": 64}
    machine._PEAK_S = 0.0
    after_step = Trainer._after_step
    Trainer._after_step = lambda self: (after_step(self), time.sleep(rest_s))  # type: ignore[assignment]
    run = find_run(run_id)
    other = beside(lambda: load_llama_and_sample(Path(llama))) if llama else nullcontext()
    with other:
        recorder = Acknowledging(run.path)
        train_run(run, recorder)
        recorder.close()


class Acknowledging:
    """A SegmentRecorder that writes down what it was told is safe: the newest step, after each flush."""

    def __init__(self, folder: Path):
        from lab.rundir import RunDir
        from lab.store import SegmentRecorder

        self._recorder = SegmentRecorder(RunDir(folder))
        self._file = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._step = -1
        self._told = -1

    def rows(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        before = self._recorder._flushed_at
        self._recorder.rows(table, rows)
        if self._recorder._flushed_at != before:
            self._acknowledge()
        if table == "metrics" and rows:
            self._step = rows[-1]["step"]

    def flush(self) -> None:
        self._recorder.flush()
        self._acknowledge()

    def close(self) -> None:
        self.flush()

    def rollback(self, after_step: int) -> None:
        self._recorder.rollback(after_step)
        self._step = self._told = after_step

    def _acknowledge(self) -> None:
        if self._step > self._told:
            self._told = self._step
            os.write(self._file, f"{self._step}\n".encode())


def acknowledged(folder: Path) -> int:
    """The newest step that a process was told is durable; -1: none."""
    path = folder / "acknowledged"
    lines = path.read_text().split() if path.exists() else []
    return int(lines[-1]) if lines else -1
