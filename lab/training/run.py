"""Executing a run directory: whoever trains, the app's thread or a process of its own, calls `train_run`."""

import os
import platform
import socket
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Literal

import torch

import lab
from lab.config import to_json
from lab.control import Control
from lab.errors import CheckpointError, DataError, LabError, RunError, TrainingError
from lab.files import write_bytes
from lab.models.checkpoints import CheckpointInfo, checkpoints_in, put_weights
from lab.rundir import RunDir
from lab.training import machine
from lab.training.account import MemoryAccount
from lab.training.contracts import Job, Recorder, Say
from lab.training.keeper import FoundState, Keeper, newest_state, restore_optimizer
from lab.training.memory import Adviser, is_out_of_memory, let_go, phase_of
from lab.training.precision import resolve_device
from lab.training.pretraining_job import PretrainJob
from lab.training.trainer import Trainer

PACKAGES = ("torch", "tiktoken", "transformers", "bitsandbytes", "duckdb", "streamlit")

MakeJob = Callable[[RunDir, torch.device, Say], Job]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Literal["finished", "stopped", "failed"]
    steps: int
    val_loss: float | None
    error: str | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    """What the run took in GiB, by metric (`account.py`)."""

    @property
    def outcomes(self) -> dict[str, float]:
        """By metric what came of the things that were predicted."""
        return {**({} if self.val_loss is None else {"val/loss": self.val_loss}), **self.memory}


def train_run(
    run: RunDir,
    recorder: Recorder,
    control: Control | None = None,
    adviser: Adviser | None = None,
    make_job: MakeJob = PretrainJob,
) -> Outcome:
    """Train the run that `run` describes, from its newest state if it has one, to its end or a stop.

    Args:
        make_job: what kind of run it is; `lab.jobs` knows for each folder.
        adviser: knows the run's memory in advance; its forecast is recorded, and it is asked when memory runs out.

    Whatever goes wrong ends as status `failed` with one sentence, and the traceback in the run's directory.

    Raises:
        RunError: another process is training this run, or it is finished.
    """
    control = control or Control(run.control_path)
    with run.lock():
        if run.info()["status"] == "finished":
            raise RunError(f"Run {run.run_id} is finished: there is nothing to go on with; fork it to train further.")
        run.tidy()
        session = _Session(run, recorder, control, adviser, make_job)
        try:
            outcome = session.train()
        except LabError as error:
            outcome = session.fail(str(error))
        except Exception as error:  # the edge: the person gets a sentence, the traceback is kept
            outcome = session.fail(_sentence(error))
        finally:
            session.close()
    return outcome


class _Session:
    """One process' work on a run, from its files to its outcome."""

    def __init__(self, run: RunDir, recorder: Recorder, control: Control, adviser: Adviser | None, make_job: MakeJob):
        self.run = run
        self.recorder = recorder
        self.control = control
        self.adviser = adviser
        self.make_job = make_job
        self.job: Job | None = None
        self.memory: MemoryAccount | None = None
        self.trainer: Trainer | None = None
        self.keeper: Keeper | None = None

    def train(self) -> Outcome:
        self._announce()
        try:
            trainer = self._prepare()
            status = self._train(trainer)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
            raise TrainingError(self._out_of_memory(error)) from error
        assert self.keeper is not None
        self.keeper.finish(trainer.snapshot())
        assert self.job is not None
        self.job.finish()
        progress = trainer.progress
        said = "Finished all" if status == "finished" else "Stopped after"
        self._event("info", status, f"{said} {progress.step:,} steps; the final checkpoint is written.")
        self._end(status)
        assert self.memory is not None
        return Outcome(status, progress.step, progress.val_loss, memory=self.memory.settle())

    def _train(self, trainer: Trainer) -> Literal["finished", "stopped"]:
        try:
            return trainer.train()
        except TrainingError as error:
            raise TrainingError(f"{error} {self._keep_last_good(trainer)}") from error

    def fail(self, sentence: str) -> Outcome:
        with suppress(LabError):  # on a full disk the sentence may still fit where the traceback does not
            write_bytes(self.run.traceback_path, traceback.format_exc().encode())
        try:
            self._event("error", "failed", sentence)
        finally:
            self._end("failed", error=sentence)
        progress = self.trainer.progress if self.trainer else None
        return Outcome("failed", progress.step if progress else 0, progress.val_loss if progress else None, sentence)

    def close(self) -> None:
        if self.keeper is not None:
            self.keeper.close()

    # -- before -----------------------------------------------------------------------------------------

    def _announce(self) -> None:
        info = self.run.info()
        row = {key: info[key] for key in ("name", "kind", "created_at", "parent_run_id", "parent_step")}
        row |= {"status": "running", "started_at": _now(), "ended_at": None, "error": None, "pid": os.getpid()}
        row |= {"host": socket.gethostname(), "config": to_json(self.run.config())}
        self.recorder.rows("runs", [row])
        self.recorder.flush()
        self.run.update_info(status="running", pid=os.getpid(), host=row["host"], error=None, ended_at=None)

    def _prepare(self) -> Trainer:
        """Everything `auto` is decided and stored here, then the trainer is set up and, on a resume, filled."""
        found = newest_state(self.run)
        parent_step = self.run.info()["parent_step"]
        if parent_step is not None and found is None:
            raise CheckpointError("The parent's weights that this run was to start from are gone; fork it anew.")
        device = resolve_device(self.run.config().compute.device)
        self.job = job = self.make_job(self.run, device, self._event)
        self.memory = MemoryAccount(self.run, device, self.recorder, self._event, self.adviser)
        machine.set_tf32(device, self.run.config().compute.tf32)
        job.build()
        config = job.config
        self.run.write_config(config)
        self.run.update_info(resolved=job.resolved, versions=_versions())
        self.memory.foresee(config)
        threads = config.compute.threads or 1
        self.keeper = Keeper(self.run, keep_last=config.train.keep_last, on_change=self._checkpoint_changed)
        self.trainer = Trainer(
            job.task,
            job.batches,
            config,
            self.recorder,
            self.control,
            keeper=self.keeper,
            matmul_peak=machine.matmul_peak(job.task.precision, threads),
            identity={"optimizer": config.optim.optimizer, "data": job.identity},
            probes=job.probes,
            around_first_step=self.memory.follow,
        )
        if found is not None:
            self._restore(self.trainer, found)
        progress = self.trainer.progress
        # Rows that no state stands behind. A fresh fork has none yet but those of the look it starts with.
        self.recorder.rollback(-1 if found is None or progress.looked_at is None else found.info.step)
        for info in checkpoints_in(self.run.checkpoints):  # a killed process may not have come to telling of them
            self.recorder.rows("checkpoints", [info.row()])
        self.keeper.make_room()  # nor to deleting those
        trained = [parameter for parameter in job.task.model.parameters() if parameter.requires_grad]
        self.recorder.rows(
            "runs",
            [
                {
                    "config": to_json(config),
                    "seed": config.train.seed,
                    "device": str(device),
                    "n_params": job.n_params,
                    "n_trainable": sum(parameter.numel() for parameter in trained),
                    "versions": _versions(),
                    "total_steps": progress.total_steps,
                }
            ],
        )
        self._event("info", "started", job.started(progress.step))
        self.recorder.flush()
        return self.trainer

    def _restore(self, trainer: Trainer, found: FoundState) -> None:
        """Go on from a state."""
        info, tensors, state = found.info, found.tensors, found.state
        for sentence in found.damaged:
            self._event("warning", "warning", f"{sentence} Going on from step {info.step:,} instead.")
        model = trainer.task.model
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        put_weights(weights, model, source=info.path.name)
        own_info = self.run.info()
        is_fresh_fork = own_info["parent_run_id"] is not None and info.step == own_info["parent_step"]
        if state["optimizer"] == trainer.identity["optimizer"]:
            restore_optimizer(model, trainer.optimizer, tensors, state["optimizer_numbers"])
        elif is_fresh_fork:
            self._event("info", "decision", "Another optimizer than the parent's: its averages start from nothing.")
        if state["data"] != trainer.identity["data"]:
            if not is_fresh_fork:
                assert self.job is not None
                raise DataError(self.job.data_changed)
            self._event("info", "decision", "Other data than the parent's: reading starts at the beginning.")
            state["batches"] = trainer.batches.state()
        total_steps = trainer.progress.total_steps
        trainer.restore(state)
        progress = trainer.progress
        if is_fresh_fork:
            if total_steps is not None and progress.step >= total_steps:
                raise TrainingError(
                    f"Nothing is left to do: the parent's state is of step {progress.step:,}, and this run's budget "
                    f"ends at step {total_steps:,}; fork it with a larger one."
                )
            progress.total_steps, progress.val_loss, progress.looked_at = total_steps, None, None
            progress.origin_step, progress.origin_elapsed_s = progress.step, progress.elapsed_s
        else:
            self._event("info", "resumed", f"Resumed from step {info.step:,}; later rows were dropped.")

    # -- memory -----------------------------------------------------------------------------------------

    def _out_of_memory(self, error: BaseException) -> str:
        """Free what the step held, keep the newest state, and find out what would fit; returns the sentence."""
        phase = phase_of(error.__traceback__)
        traceback.clear_frames(error.__traceback__)  # the tensors of the step that broke off
        limit = self.memory.watch.limit_bytes() if self.memory is not None else 0
        step = 0
        if self.trainer is not None:
            step = self.trainer.progress.step + (phase in ("forward", "backward", "update"))
            let_go(self.trainer.task.model, self.trainer.optimizer)
        kept = "There is no state to go on from."
        if self.keeper is not None:
            try:
                info = self.keeper.finish_with_resume()  # of the weights in memory the update may have changed some
                if info is not None:
                    kept = f"The final checkpoint holds the weights of step {info.step:,}."
            except (LabError, MemoryError, RuntimeError) as second:
                kept = f"And no final checkpoint could be written: {second or type(second).__name__}"
        what = f"Out of memory in the {phase} of step {step:,}." if step else f"Out of memory in the {phase}."
        if self.memory is None:
            return f"{what} {kept}"
        return f"{what} {kept} {self.memory.advise(self.run.config(), what, phase, step, limit)}"

    # -- after ------------------------------------------------------------------------------------------

    def _keep_last_good(self, trainer: Trainer) -> str:
        """After a number that is none: the present weights if they still predict anything, else the last state's."""
        assert self.keeper is not None
        try:
            if trainer.is_sound():
                self.keeper.finish(trainer.snapshot())
                step: int | None = trainer.progress.step
            else:
                info = self.keeper.finish_with_resume()
                step = info.step if info is not None else None
        except LabError as error:
            return f"And no final checkpoint could be written: {error}"
        if step is None:
            return "There is no final checkpoint: no state before it was kept."
        return f"The final checkpoint holds the weights of step {step:,}."

    def _end(self, status: str, error: str | None = None) -> None:
        ended_at = _now()
        try:
            self.recorder.flush()
        finally:  # the folder before the record's row: of a run that dies between the two, the end is taken from here
            self.run.update_info(status=status, error=error, ended_at=ended_at)
        self.recorder.rows("runs", [{"status": status, "ended_at": ended_at, "error": error}])
        self.recorder.flush()

    def _checkpoint_changed(self, info: CheckpointInfo) -> None:
        if info.kind == "deleted":
            said = f"Checkpoint of step {info.step:,} deleted: keep_last newer ones stand."
        else:
            said = f"Checkpoint of step {info.step:,} on disk as {info.kind} ({info.bytes / 2**20:.1f} MiB)."
        self.recorder.rows("checkpoints", [info.row()])
        self._event("info", "checkpoint", said, step=info.step)
        self.recorder.flush()  # before anything is deleted: the record must not name a file that is gone

    def _event(self, level: str, kind: str, message: str, *, step: int | None = None) -> None:
        if step is None:
            step = self.trainer.progress.step if self.trainer else 0
        self.recorder.rows("events", [{"step": step, "level": level, "kind": kind, "message": message}])


def _sentence(error: Exception) -> str:
    text = str(error).strip().split("\n")[0] or "no message"
    return f"Training broke off with {type(error).__name__}: {text} The traceback is in the run's folder."


@cache
def _versions() -> dict[str, str]:
    found = {"lab": lab.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional one
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
