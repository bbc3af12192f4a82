"""The training loop: one for every kind of run.

    for each step:
        forward    what does the model expect to come next, and how surprised is it by what came?  (loss)
        backward   which way would each weight have to move to be less surprised?                  (gradient)
        update     move each weight a little that way                                              (AdamW)

What is trained, on what, and what is looked at on the way belongs to the task, the batches and the probes. The
trainer imports neither the store nor the analysis: rows go to a recorder it is given.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil
import torch
from torch import nn

from lab.config import RunConfig
from lab.control import Control
from lab.errors import TrainingError
from lab.models.checkpoints import Kind
from lab.training.contracts import Batches, Probe, Recorder, Task
from lab.training.keeper import Keeper, Snapshot, take_snapshot
from lab.training.optimizer import build_optimizer, set_learning_rate
from lab.training.schedule import learning_rate_at

MEASURED_STEPS = 20
"""A budget in minutes becomes a number of steps after this many."""

SPEED_EVERY_S = 0.5
"""Seconds between two rows of speed and memory: a person reads no faster."""

PAUSE_LOOK_S = 0.05
"""Seconds between two looks at the control file while paused."""

LOWEST_LOSS_SCALE = 1e-4
"""fp16 begins at 65,536 and halves at each overflow: from here on it is the gradient itself that is no number."""


@dataclass
class Progress:
    """The numbers of a run that a resumed one has to continue from."""

    step: int = 0
    tokens_seen: int = 0
    elapsed_s: float = 0.0
    """Seconds of training, evaluation and recording, without pauses."""
    total_steps: int | None = None
    val_loss: float | None = None
    looked_at: int | None = None
    """The step of the newest evaluation."""
    origin_step: int = 0
    """Where a fork left its parent; a budget in minutes counts from here."""
    origin_elapsed_s: float = 0.0


@dataclass
class _Pace:
    """Tokens and seconds of training steps since the last row of speed."""

    tokens: int = 0
    seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)


class Trainer:
    """Trains `task` on `batches` until the budget is used up or somebody says stop.

    Args:
        keeper: writes checkpoints and the resume state.
        identity: what a state has to agree with to be continued, stored with each.
        matmul_peak: floating point operations per second that count as 100 % MFU.
        probes: looked at each evaluation.
        around_first_step: entered for the first step.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        config: RunConfig,
        recorder: Recorder,
        control: Control,
        *,
        keeper: Keeper,
        matmul_peak: float,
        identity: Mapping[str, Any],
        probes: Sequence[Probe] = (),
        around_first_step: Callable[["Trainer"], AbstractContextManager[object]] | None = None,
    ):
        self.task = task
        self.batches = batches
        self.config = config
        self.recorder = recorder
        self.control = control
        self.keeper = keeper
        self.matmul_peak = matmul_peak
        self.identity = identity
        self.probes = probes
        self.around_first_step = around_first_step
        self.progress = Progress(total_steps=self._steps_of_budget())
        self.optimizer = build_optimizer(task.model, config.optim)
        self.scaler = task.precision.scaler()
        self._place = batches.state()
        """Where the last finished step left the text; the batches themselves may be in the middle of the next."""
        self._peak_memory = 0
        self._pace = _Pace()
        self._paused_s = 0.0
        self._step_s = 0.0
        self._look_s = 0.0
        self._first_step = 0
        self._zero = self._now()
        self._process = psutil.Process()

    # -- the loop ---------------------------------------------------------------------------------------

    def train(self) -> Literal["finished", "stopped"]:
        """Run to the end of the budget, or to a stop.

        Raises:
            TrainingError: the loss or the gradient is no longer a number. The weights are then still those
                of the last good step.
        """
        self.task.model.train()
        self._first_step = self.progress.step
        self._zero = self._now() - self.progress.elapsed_s
        self._look_if_due()
        while not self._is_done():
            if self._stop_asked() or not self._next_step():
                return "stopped"
            self._after_step()
        return "stopped" if self._look_is_due() else "finished"

    def _next_step(self) -> bool:
        around, self.around_first_step = self.around_first_step, None
        with around(self) if around is not None else nullcontext():
            return self._step()

    def _is_done(self) -> bool:
        total = self.progress.total_steps
        return total is not None and self.progress.step >= total

    def _step(self) -> bool:
        """One update of the weights; False when stopped before it, with nothing changed."""
        started = self._now()
        progress, update = self.progress, self.progress.step
        micro_batches = self.batches.next_step()
        labels = sum(batch.n_labels for batch in micro_batches)
        self.task.dropout_clock.step = update
        loss = torch.zeros((), dtype=torch.float64 if self.task.device.type == "cpu" else torch.float32)
        for number, batch in enumerate(micro_batches):
            if self._stop_asked():
                self.optimizer.zero_grad(set_to_none=True)
                self.batches.load_state(self._place)
                return False
            self.task.dropout_clock.micro_step = number
            # The mean over *all* labels of the step: each micro-batch adds its share of the sum.
            part = self.task.loss_sum(batch) / labels
            self.scaler.scale(part).backward()
            loss += part.detach().cpu()
        rate = learning_rate_at(update, self.config.optim, progress.total_steps)
        gradient_length = self._update(loss.item(), rate)

        seconds = self._now() - started
        self._place = self.batches.state()
        progress.step += 1
        progress.tokens_seen += labels
        self._tick()
        self._step_s += seconds
        self._pace.tokens += sum(batch.n_tokens for batch in micro_batches)
        self._pace.seconds += seconds
        values = {"train/loss": loss.item(), "train/learning_rate": rate}
        if math.isfinite(gradient_length):
            values["train/grad_norm"] = gradient_length
        self._record(values)
        return True

    def _update(self, loss: float, rate: float) -> float:
        """Clip and step; returns the gradient's length before clipping."""
        step = self.progress.step + 1
        if not math.isfinite(loss):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"The training loss at step {step} is {loss}, no longer a number, so the update was left out; the "
                f"learning rate was {rate:.2g}: fork from a checkpoint with a smaller one."
            )
        self.scaler.unscale_(self.optimizer)  # clipping must see the true gradient
        length = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.optim.grad_clip or math.inf).item()
        if not math.isfinite(length) and not self.scaler.is_enabled():
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(
                f"The gradient at step {step} is {length}, no longer a number, though the loss was {loss:.4g}, so the "
                f"update was left out; fork from a checkpoint with a learning rate below {rate:.2g}."
            )
        set_learning_rate(self.optimizer, rate)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # fp16: left out when a scaled gradient overflowed …
        self.scaler.update()  # … and the scale halved
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled() and self.scaler.get_scale() < before:
            self._scale_lowered(step, before, self.scaler.get_scale())
        return length

    def _scale_lowered(self, step: int, before: float, after: float) -> None:
        if after < LOWEST_LOSS_SCALE:
            raise TrainingError(
                f"The gradient at step {step} is no number in 16 bits whatever the loss scale, so the update was left "
                "out; fork from a checkpoint with precision bf16 or fp32, or a smaller learning rate."
            )
        self._event(
            "info", "warning",
            f"A 16-bit gradient overflowed: the update was left out and the loss scale lowered from {before:,g} to "
            f"{after:,g}.", step=step,
        )  # fmt: skip

    def _after_step(self) -> None:
        """What is due between two steps: speed, evaluation, checkpoints."""
        step, train = self.progress.step, self.config.train
        self._measure()
        if self.progress.total_steps is None and self._knows_its_pace():
            self._turn_minutes_into_steps()
        self._look_if_due()
        if self.keeper.resume_is_due:
            self._keep_resume()
        if train.checkpoint_every and step % train.checkpoint_every == 0 and not self._is_done():
            self._keep("kept")
        if self.control.take_save():
            self._keep("saved")
        self.keeper.collect()

    # -- looking ----------------------------------------------------------------------------------------

    def _look_is_due(self) -> bool:
        """At the start of a run or fork, at each `eval_every`, and at the end; also when a stop broke it off there."""
        step, looked_at = self.progress.step, self.progress.looked_at
        if looked_at is None:
            return True
        return looked_at != step and (step % self.config.train.eval_every == 0 or self._is_done())

    def _look_if_due(self) -> None:
        if self._look_is_due() and self._look() and not self._is_done():
            self._keep_resume()

    def _look(self) -> bool:
        """Evaluate, sample and probe; False when stopped on the way (then nothing of it is recorded)."""
        self.recorder.flush()  # what is known so far should not wait for this
        started, step = self._now(), self.progress.step
        metrics = self.task.evaluate(self._stop_asked)
        if metrics is None:
            return False
        loss = metrics["val/loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"The validation loss at step {step} is {loss}, no longer a number: the weights have grown out of "
                "range; fork from an earlier checkpoint with a smaller learning rate."
            )
        samples = self.task.samples(step, self._stop_asked)
        if self._stop_asked():
            return False
        self.progress.val_loss, self.progress.looked_at = loss, step
        self._look_s = self._now() - started
        self._tick()
        self._record(metrics)
        self.recorder.rows("samples", samples)
        self._run_probes(step)
        self.recorder.flush()
        return True

    @torch.no_grad()
    def _run_probes(self, step: int) -> None:
        self.task.model.eval()
        for probe in self.probes:
            table, rows = probe(self.task.model, step)
            if table == "metrics":
                self._record({row["name"]: row["value"] for row in rows})  # with tokens and time beside the step
            else:
                self.recorder.rows(table, rows)
        self.task.model.train()

    def _measure(self) -> None:
        """A row of speed and memory, twice a second at most."""
        pace = self._pace
        if time.monotonic() - pace.since < SPEED_EVERY_S and not self._is_done():
            return
        speed = pace.tokens / pace.seconds
        if self.task.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.task.device)
        else:
            memory = self._process.memory_info().rss
        self._peak_memory = max(self._peak_memory, memory)
        self._record(
            {
                "train/tokens_per_second": speed,
                "train/mfu": speed * self.task.flops_per_token / self.matmul_peak,
                "system/memory_gib": self._peak_memory / 2**30,
            }
        )
        self._pace = _Pace()

    # -- budget, pause, stop ----------------------------------------------------------------------------

    def _steps_of_budget(self) -> int | None:
        train = self.config.train
        if train.max_epochs is not None:
            steps = train.max_epochs * self.batches.steps_per_epoch
            return max(1, math.ceil(round(steps, 6)))  # 1.1 × 10 is 11, not 11.000000000000002 and so 12
        return train.max_steps

    def _knows_its_pace(self) -> bool:
        """Enough steps were measured, or the minutes are over before that."""
        minutes, progress = self.config.train.max_minutes, self.progress
        assert minutes is not None, "a run without steps or epochs has minutes"
        used_s = progress.elapsed_s - progress.origin_elapsed_s
        return progress.step - self._first_step >= MEASURED_STEPS or used_s >= minutes * 60

    def _turn_minutes_into_steps(self) -> None:
        """Once: from here on the run has a fixed length, and so has its schedule."""
        minutes, progress = self.config.train.max_minutes, self.progress
        assert minutes is not None, "a run without steps or epochs has minutes"
        per_step = self._step_s / (progress.step - self._first_step) + self._look_s / self.config.train.eval_every
        left_s = minutes * 60 - (progress.elapsed_s - progress.origin_elapsed_s)
        progress.total_steps = progress.step + max(0, round(left_s / per_step))
        self.recorder.rows("runs", [{"total_steps": progress.total_steps}])
        self._event(
            "info", "decision",
            f"{minutes:g} minutes at the measured {per_step:.3g} s per step are {progress.total_steps:,} steps.",
        )  # fmt: skip

    def _stop_asked(self) -> bool:
        """Look at the control file; waits here as long as the run is paused."""
        want = self.control.want
        if want == "pause":
            self._wait_while_paused()
            want = self.control.want
        return want == "stop"

    def _wait_while_paused(self) -> None:
        self._event("info", "paused", f"Paused at step {self.progress.step:,}.")
        self.recorder.rows("runs", [{"status": "paused"}])
        self.recorder.flush()
        paused_from = time.perf_counter()
        while self.control.want == "pause":
            if self.control.take_save():
                self._keep("saved")
            self.keeper.collect()
            time.sleep(PAUSE_LOOK_S)
        self._paused_s += time.perf_counter() - paused_from
        if self.control.want == "run":
            self._event("info", "resumed", f"Went on from step {self.progress.step:,}.")
            self.recorder.rows("runs", [{"status": "running"}])
            self.recorder.flush()
        self._pace = _Pace()

    def _tick(self) -> None:
        """All the run's time counts, what recording takes too; only pauses and the time between a kill and a resume
        do not."""
        self.progress.elapsed_s = self._now() - self._zero

    def _now(self) -> float:
        """Seconds on a clock that stands still during a pause."""
        return time.perf_counter() - self._paused_s

    # -- state ------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole state after the last finished step."""
        progress = self.progress
        state = {
            "progress": vars(progress).copy(),
            "batches": self._place,
            "scaler": self.scaler.state_dict(),
            "peak_memory": self._peak_memory,
            **self.identity,
        }
        return take_snapshot(progress.step, self.task.model, self.optimizer, state, progress.val_loss)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a snapshot's numbers; weights and optimizer are put back by the caller."""
        self.progress = Progress(**state["progress"])
        self.batches.load_state(state["batches"])
        self._place = self.batches.state()
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self._peak_memory = state["peak_memory"]

    def is_sound(self) -> bool:
        """Whether the weights as they are now still give a validation loss that is a number."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.task.model.parameters()):
            return False
        metrics = self.task.evaluate(lambda: False)
        return metrics is not None and math.isfinite(metrics["val/loss"])

    def _keep(self, kind: Kind) -> None:
        self.recorder.flush()  # a state must never be ahead of its rows: who resumes from it does not write them again
        self.keeper.keep(self.snapshot(), kind)

    def _keep_resume(self) -> None:
        if self.keeper.is_writing:  # a slow disk: at the next step, then
            self.keeper.put_off_resume()
            return
        self.recorder.flush()
        self.keeper.keep_resume(self.snapshot())

    # -- rows -------------------------------------------------------------------------------------------

    def _record(self, values: dict[str, float]) -> None:
        progress = self.progress
        self.recorder.rows(
            "metrics",
            [
                {
                    "step": progress.step,
                    "tokens_seen": progress.tokens_seen,
                    "elapsed_s": progress.elapsed_s,
                    "name": name,
                    "value": value,
                }
                for name, value in values.items()
            ],
        )

    def _event(self, level: str, kind: str, message: str, *, step: int | None = None) -> None:
        at = self.progress.step if step is None else step
        self.recorder.rows("events", [{"step": at, "level": level, "kind": kind, "message": message}])
