"""A process that trains until its address space is limited: `python -m tests.training.starved PHASE RUN_ID`.

Prints the outcome as JSON. For tests: a limit holds for a whole process, so it cannot be set in that of the tests.
"""

import json
import resource
import sys
import time
from typing import Any

import psutil

from lab.control import Control
from lab.forecast.adviser import MemoryAdviser
from lab.rundir import RunDir, find_run
from lab.store.recorder import SegmentRecorder
from lab.training.run import train_run

MIB = 2**20
HEADROOM_MIB = {"evaluation": 1, "forward": 400, "backward": 40, "update": 150}
"""What is left, by the phase that then fails: the model of the test has 85 MiB of weights, as much in gradients, and
twice as much in optimizer state, which the first update makes. Its forward pass keeps 600 MiB where it is to fail."""


class Starving(Control):
    """Looked at between two parts of the work: takes the memory away when its moment has come."""

    def __init__(self, run: RunDir, phase: str):
        super().__init__(run.control_path)
        self.run, self.phase, self.is_done = run, phase, False

    @property
    def want(self) -> Any:
        wanted = "evaluate" if self.phase == "evaluation" else "_step"
        if not self.is_done and wanted in _names():
            self.is_done = True
            if self.phase != "evaluation":
                for _ in range(400):
                    if list(self.run.resume.glob("*.json")):
                        break
                    time.sleep(0.05)
                time.sleep(0.5)  # until the writer has let go of its copy
            limit = psutil.Process().memory_info().vms + HEADROOM_MIB[self.phase] * MIB
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return super().want


class Relaxing(MemoryAdviser):
    """The limit ends when the run has failed: the real machine, too, has its memory back by then."""

    def out_of_memory(self, config: Any, limit_bytes: int) -> Any:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return super().out_of_memory(config, limit_bytes)


def _names() -> list[str]:
    names, frame = [], sys._getframe(1)
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return names


if __name__ == "__main__":
    directory = find_run(sys.argv[2])
    recorder = SegmentRecorder(directory)
    outcome = train_run(directory, recorder, Starving(directory, sys.argv[1]), Relaxing())
    recorder.close()
    print(json.dumps({"status": outcome.status, "error": outcome.error, "steps": outcome.steps}))
