"""Keeping a run's state safe while it trains.

The state is copied in the training thread (a moment) and written by a second thread, so that a slow disk
costs the run almost nothing. A failed write fails the run at its next look.
"""

import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lab.errors import CheckpointError
from lab.models import checkpoints
from lab.models.checkpoints import CheckpointInfo, Kind
from lab.rundir import RunDir

RESUME_EVERY_S = 60.0
"""A rolling resume state is never older than this, plus one step."""


_Job = tuple[Callable[[], CheckpointInfo], "Future[CheckpointInfo]"]


@dataclass(frozen=True)
class Snapshot:
    """A run's whole state at one step, apart from the model that goes on training."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    val_loss: float | None


def take_snapshot(
    step: int, model: nn.Module, optimizer: Optimizer, state: dict[str, Any], val_loss: float | None
) -> Snapshot:
    """Copy everything that training would change. `state` holds the trainer's own numbers, as JSON values."""
    tensors = {f"model.{name}": _copy(parameter) for name, parameter in trained_and_saved(model).items()}
    numbers: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            place = f"optimizer.{name}/{key}"
            if isinstance(value, Tensor):
                tensors[place] = _copy(value)
            else:
                numbers[place] = value
    return Snapshot(step, tensors, {**state, "optimizer_numbers": numbers}, val_loss)


def restore_optimizer(
    model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """Put an optimizer's state back, value for value.

    Not through `load_state_dict`: that casts state to the parameter's dtype, and the state counts by place
    in a list rather than by name.
    """
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}/"
        entry: dict[str, Any] = {
            place.removeprefix(prefix): value for place, value in numbers.items() if place.startswith(prefix)
        }
        for place, tensor in tensors.items():
            if place.startswith(prefix):
                key = place.removeprefix(prefix)
                # AdamW keeps its step count on the CPU unless it runs as one fused kernel.
                stays = key == "step" and not any(group.get("fused") for group in optimizer.param_groups)
                entry[key] = tensor if stays else tensor.to(parameter.device)
        if entry:
            optimizer.state[parameter] = entry


def _link(source: Path, target: Path) -> None:
    """The same bytes under a second name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def trained_and_saved(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters a checkpoint holds: those that train, a tied matrix once. What is frozen is as it was loaded."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Keeper:
    """Writes checkpoints and the rolling resume state of one run."""

    def __init__(self, run: RunDir, *, keep_last: int, on_change: Callable[[CheckpointInfo], None]):
        """`on_change` is called in the training thread for each checkpoint that is on disk now, got another kind,
        or is about to be deleted to make room."""
        checkpoints.remove_lonely(run.checkpoints)
        checkpoints.remove_lonely(run.resume)
        self.run = run
        self.keep_last = keep_last
        self.on_change = on_change
        self.last_resume_at = time.monotonic()
        self._pending: list[Future[CheckpointInfo]] = []
        # A plain thread and not an executor: those take no more work once the interpreter begins to exit, which is
        # when a stopped app writes its last checkpoint.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="checkpoint-writer", daemon=True)
        self._writer.start()

    @property
    def resume_is_due(self) -> bool:
        return time.monotonic() - self.last_resume_at >= RESUME_EVERY_S

    @property
    def is_writing(self) -> bool:
        return any(not job.done() for job in self._pending)

    def put_off_resume(self) -> None:
        """Let the rolling state be due until it is kept."""
        self.last_resume_at = -math.inf

    def keep_resume(self, snapshot: Snapshot) -> None:
        """Replace the rolling state. The old one goes only when the new one stands."""
        self.last_resume_at = time.monotonic()
        self._submit(lambda: self._write_resume(snapshot))

    def keep(self, snapshot: Snapshot, kind: Kind) -> None:
        """Write a checkpoint that stays. A disk slower than the checkpoints asked for holds training up here, rather
        than let copies of the state pile up in memory."""
        self.collect(wait=True)
        self._submit(lambda: self._write(snapshot, kind))

    def collect(self, *, wait: bool = False) -> None:
        """Report finished writes.

        Raises:
            LabError: a write failed.
        """
        for job in list(self._pending):
            if wait or job.done():
                self._pending.remove(job)
                info = job.result()
                if info.kind != "resume":  # it comes and goes too often to be told
                    self.on_change(info)
                if info.kind == "kept":
                    self.make_room()

    def finish(self, snapshot: Snapshot) -> None:
        """Write the final checkpoint; only when it stands does the resume state go."""
        self.collect(wait=True)
        for info in checkpoints.checkpoints_in(self.run.checkpoints):
            if info.kind == "final":  # of an earlier stop: no longer the last word, but nobody asked to lose it
                self.on_change(checkpoints.mark(info, "saved"))
        self.keep(snapshot, "final")
        self.collect(wait=True)
        for info in checkpoints.checkpoints_in(self.run.resume):
            checkpoints.remove(info)

    def finish_with_resume(self) -> CheckpointInfo | None:
        """Make the newest rolling state the final checkpoint: the current weights are not worth keeping."""
        self.collect(wait=True)
        states = [info for info in checkpoints.checkpoints_in(self.run.resume) if checkpoints.is_whole(info)]
        if not states:
            return None
        info = states[-1]
        for old in checkpoints.checkpoints_in(self.run.checkpoints):
            if old.kind == "final":
                self.on_change(checkpoints.mark(old, "saved"))
        # The file itself: to read it and write it again takes memory, and who comes here may have run out of that.
        self.run.checkpoints.mkdir(exist_ok=True)
        target = self.run.checkpoints / info.path.name
        try:
            there = [old for old in checkpoints.checkpoints_in(self.run.checkpoints) if old.step == info.step]
            if not any(checkpoints.is_whole(old) for old in there):  # the same step is the same state
                target.unlink(missing_ok=True)
                _link(info.path, target)
        except OSError as error:
            raise CheckpointError(f"The final checkpoint could not be written: {error.strerror}.") from error
        self.on_change(checkpoints.mark(replace(info, path=target), "final"))
        for old in checkpoints.checkpoints_in(self.run.resume):
            checkpoints.remove(old)
        return info

    def close(self) -> None:
        """Wait for writes under way; their errors were reported by `collect`, or the run has failed already."""
        self._jobs.put(None)
        self._writer.join()

    def _submit(self, work: Callable[[], CheckpointInfo]) -> None:
        done: Future[CheckpointInfo] = Future()
        self._pending.append(done)
        self._jobs.put((work, done))

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            try:
                done.set_result(work())
            except BaseException as error:  # handed to the training thread, which `collect`s it
                done.set_exception(error)

    def _write_resume(self, snapshot: Snapshot) -> CheckpointInfo:
        info = self._write(snapshot, "resume")
        for other in checkpoints.checkpoints_in(self.run.resume):
            if other.step != snapshot.step:
                checkpoints.remove(other)
        return info

    def _write(self, snapshot: Snapshot, kind: Kind) -> CheckpointInfo:
        folder = self.run.resume if kind == "resume" else self.run.checkpoints
        for info in checkpoints.checkpoints_in(folder):
            if info.step == snapshot.step and checkpoints.is_whole(info):
                # The same step is the same state. Writing it again would, for a moment, leave neither of the two.
                return checkpoints.mark(info, kind)
        return checkpoints.write_checkpoint(
            folder,
            step=snapshot.step,
            tensors=snapshot.tensors,
            state=snapshot.state,
            val_loss=snapshot.val_loss,
            kind=kind,
        )

    def make_room(self) -> None:
        """Delete the oldest periodic checkpoints beyond `keep_last`. Told first: the record may lack a file that is
        still there, but must not name one that is gone."""
        kept = [info for info in checkpoints.checkpoints_in(self.run.checkpoints) if info.kind == "kept"]
        for info in kept[: -self.keep_last]:
            self.on_change(replace(info, kind="deleted"))
            checkpoints.remove(info)


@dataclass(frozen=True)
class FoundState:
    """The newest whole state of a run."""

    info: CheckpointInfo
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    damaged: list[str]
    """A sentence for each newer state that could not be read."""


def newest_state(run: RunDir) -> FoundState | None:
    """The newest state of a run that is whole; None when it has none.

    Raises:
        CheckpointError: there are states, and all are damaged.
    """
    damaged: list[str] = []
    for info in reversed(checkpoints.list_checkpoints(run)):
        try:
            tensors, state = checkpoints.read_checkpoint(info)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        return FoundState(info, tensors, state, damaged)
    if damaged:
        raise CheckpointError(f"No state of run {run.run_id} can be read. {' '.join(damaged)}")
    return None


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
