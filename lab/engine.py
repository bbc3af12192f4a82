"""One queue, one background thread that trains, one that keeps the record up to date.

The engine owns `runs.duckdb` while the app lives. It never hands out a live model: pages read rows and
checkpoints. Asking a run to pause, stop or save goes through its control file, whoever trains it.
"""

import atexit
import gc
import os
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil

from lab import jobs, rundir
from lab.config import RunConfig, to_json
from lab.errors import LabError, RunError
from lab.files import write_bytes
from lab.generations import Generations
from lab.models import checkpoints
from lab.rundir import RunDir
from lab.store import queries
from lab.store.cursor import Cursor
from lab.store.database import Database
from lab.store.recorder import DatabaseRecorder
from lab.store.segments import ingest
from lab.store.snapshot import serve_snapshots
from lab.store.sweep import ingest_all, settle_dead, sweep

POLL_S = 0.5
"""Between two looks at other processes' segments and requests."""

EXIT_PATIENCE_S = 20.0
"""How long an exiting app waits for the training thread to write its last checkpoint."""

LIVE = ("running", "paused")
RESUMABLE = ("interrupted", "stopped", "failed")


@dataclass(frozen=True)
class RunStatus:
    """What the status strip shows of a run. Unknown numbers are None."""

    run_id: str
    name: str
    status: str
    step: int
    total_steps: int | None
    val_loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class EngineStatus:
    """What is going on: the run in this process, what waits, and live runs of other processes."""

    running: RunStatus | None
    queue: list[RunStatus]
    others: list[RunStatus]


class Engine:
    """One per app process. Every method may be called from any thread.

    Raises:
        DatabaseBusy: another process owns the record.
        StoreError: the record cannot be opened.
    """

    def __init__(self) -> None:
        self.database = Database.open()
        self.notices = list(self.database.notices)
        """Sentences about what had to be mended at the start."""
        self._change = threading.Condition()
        self._queue: list[str] = []
        self._active: str | None = None
        self._closing = False
        self.writing = Generations()
        """Texts and answers that models write in the background."""
        try:
            sweep(self.database)
            self._restore_queue()
        except BaseException:
            self.database.close()  # or the next try in this process would find the record in use, by itself
            raise
        self._worker = threading.Thread(target=self._work, name="engine-worker", daemon=True)
        self._poller = threading.Thread(target=self._poll, name="engine-poller", daemon=True)
        self._worker.start()
        self._poller.start()
        atexit.register(self.shutdown)

    @classmethod
    def start(cls) -> "Engine":
        """Open the record, put right what a crash left behind, and go on with the queue."""
        return cls()

    def shutdown(self) -> None:
        """Stop the running run at its next look, let it write its final checkpoint, and close the record."""
        with self._change:
            if self._closing:
                return
            self._closing = True
            active = self._active
            self._change.notify_all()
        atexit.unregister(self.shutdown)
        self.writing.stop_all()
        if active is not None:
            self._directory(active).ask(want="stop")
        self._worker.join(EXIT_PATIENCE_S)
        self._poller.join(EXIT_PATIENCE_S)
        self.database.close()

    # -- runs -------------------------------------------------------------------------------------------

    def submit(self, config: RunConfig, *, name: str = "", prediction: tuple[float, float, float] | None = None) -> str:
        """Start a run, or queue it behind the one that is running.

        Args:
            prediction: the validation loss that the person expects in nats per token, with the ends of a range.

        Returns:
            The run's id.

        Raises:
            LabError: the corpus, the data set or the model is not there, or cannot be trained on.
        """
        return self._begin(rundir.create_run(jobs.ready(config), name=name), prediction)

    def fork(
        self,
        run_id: str,
        step: int | None,
        config: RunConfig,
        *,
        name: str = "",
        prediction: tuple[float, float, float] | None = None,
    ) -> str:
        """Start a child of a run's checkpoint with other settings.

        Args:
            step: of the checkpoint; None takes the newest state.
            prediction: as in `submit`.

        Raises:
            ConfigError: the parent's weights do not fit the config.
            CheckpointError: no such checkpoint.
        """
        from lab.training.fork import fork_run

        return self._begin(fork_run(self._directory(run_id), step, config, name=name), prediction)

    def resume(self, run_id: str) -> None:
        """Go on with a run that was interrupted, stopped or failed, from its newest state.

        Raises:
            RunError: it is running, here or in another process, queued or finished.
        """
        run = self._directory(run_id)
        with self._change:  # two clicks at once must not queue it twice
            status = queries.run_row(self.database, run_id)["status"]
            if status not in RESUMABLE:
                raise RunError(f"Run {run_id} is {status}; only an interrupted, stopped or failed run can be resumed.")
            with run.lock():  # waits for whoever has just found it dead and is still writing that down
                run.ask(want="run")
                run.update_info(status="queued", error=None)
            self._enqueue(run_id)

    def pause(self, run_id: str) -> None:
        """Hold a run at its next look, keeping everything in memory."""
        self._live(run_id).ask(want="pause")

    def unpause(self, run_id: str) -> None:
        """Let a paused run go on."""
        self._live(run_id).ask(want="run")

    def stop(self, run_id: str) -> None:
        """End a run at its next look, with a final checkpoint; a queued one leaves the queue."""
        with self._change:  # or it might leave the queue, and start, between the question and the answer
            if run_id in self._queue:
                self.cancel(run_id)
                return
        self._live(run_id).ask(want="stop")

    def save(self, run_id: str) -> None:
        """Ask a live run for a checkpoint now."""
        self._live(run_id).ask(save=True)

    def cancel(self, run_id: str) -> None:
        """Take a run out of the queue.

        Raises:
            RunError: it does not wait there.
        """
        with self._change:
            if run_id not in self._queue:
                raise RunError(f"Run {run_id} is not waiting in the queue.")
            self._queue.remove(run_id)
            self.database.update_run(run_id, status="stopped", queue_pos=None)
            self._directory(run_id).update_info(status="stopped")
            self._store_queue()

    def move(self, run_id: str, position: int) -> None:
        """Put a queued run at another place, counted from 0."""
        with self._change:
            if run_id not in self._queue:
                raise RunError(f"Run {run_id} is not waiting in the queue.")
            self._queue.remove(run_id)
            self._queue.insert(max(0, position), run_id)
            self._store_queue()

    def delete_checkpoint(self, run_id: str, step: int) -> None:
        """Delete a kept checkpoint's files and its row."""
        checkpoints.delete_checkpoint(self._directory(run_id), step)
        self.database.delete_checkpoint(run_id, step)

    # -- looking ----------------------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        """A cursor on the record for the calling thread; for reading."""
        return self.database.cursor()

    def status(self) -> EngineStatus:
        """What is going on, from the record."""
        with self.cursor() as cursor:
            rows = queries.live_runs(cursor)
        with self._change:
            active, queue = self._active, list(self._queue)
        by_id = {row["run_id"]: _run_status(row) for row in rows}
        return EngineStatus(
            running=by_id.get(active) if active else None,
            queue=[by_id[run_id] for run_id in queue if run_id in by_id],
            others=[status for run_id, status in by_id.items() if run_id != active and status.status in LIVE],
        )

    @property
    def is_training(self) -> bool:
        """Whether a run of this process has the worker now. Unlike `status`, it reads nothing from the record."""
        return self._active is not None

    # -- the two threads --------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._change:
                self._active = None
                while not self._queue and not self._closing:
                    self._change.wait()
                if self._closing:
                    return
                self._active = run_id = self._queue.pop(0)
            try:
                with self._change:
                    self._store_queue()
                self._train(run_id)
            except Exception as error:  # the edge of this thread, which has to outlive whatever befell one run
                self._tell(f"Run {run_id} broke off: {_sentence(error)}")

    def _train(self, run_id: str) -> None:
        run = self._directory(run_id)
        try:
            _free_the_gpu()
            _spare_the_collector()
            ingest(self.database, run)  # what an earlier process left: it must not come in after the rows of this one
            recorder = DatabaseRecorder(self.database, run_id)
            outcome = jobs.execute(run, recorder)
            recorder.close()
            for metric, value in outcome.outcomes.items():
                self.database.resolve_predictions(run_id, metric, value)
        except RunError as error:  # another process was faster: the run is that one's, or finished by now
            self._tell(str(error))
            self.database.update_run(run_id, status=run.info()["status"])
        except Exception as error:
            with suppress(LabError):  # on a full disk
                write_bytes(run.traceback_path, traceback.format_exc().encode())
            self._tell(f"Run {run_id} broke off and could not be recorded: {_sentence(error)}")
            run.update_info(status="failed", error=_sentence(error))
            self.database.update_run(run_id, status="failed", error=_sentence(error))

    def _poll(self) -> None:
        while True:
            with self._change:
                if self._closing or self._change.wait_for(lambda: self._closing, POLL_S):
                    return
            try:
                ingest_all(self.database)
                settle_dead(self.database)
                serve_snapshots(self.database)
            except Exception as error:  # the edge of this thread; the next round may work again
                self._tell(_sentence(error))

    def _tell(self, sentence: str) -> None:
        """Put a sentence on every page, once."""
        if sentence not in self.notices:
            self.notices.append(sentence)

    # -- small things -----------------------------------------------------------------------------------

    def _begin(self, run: RunDir, prediction: tuple[float, float, float] | None) -> str:
        self._add_row(run)
        if prediction is not None:
            expected, low, high = prediction
            self.database.add_prediction(run.run_id, "val/loss", expected, low, high, who="person")
        self._enqueue(run.run_id)
        return run.run_id

    def _add_row(self, run: RunDir) -> None:
        info = run.info()
        row = {
            key: info[key] for key in ("run_id", "name", "kind", "created_at", "host", "parent_run_id", "parent_step")
        }
        config = run.config()
        self.database.add_run({**row, "status": "queued", "seed": config.train.seed, "config": to_json(config)})

    def _enqueue(self, run_id: str) -> None:
        with self._change:
            self._queue.append(run_id)
            self.database.update_run(run_id, status="queued", error=None, ended_at=None)
            self._store_queue()
            self._change.notify_all()

    def _store_queue(self) -> None:
        for position, run_id in enumerate(self._queue):
            self.database.update_run(run_id, queue_pos=position)
        if self._active is not None:
            self.database.update_run(self._active, queue_pos=None)

    def _restore_queue(self) -> None:
        with self.cursor() as cursor:
            rows: list[dict[str, Any]] = queries.live_runs(cursor)
        waiting = [row for row in rows if row["status"] == "queued" and row["queue_pos"] is not None]
        here = {run.run_id for run in rundir.all_runs()}
        for row in sorted(waiting, key=lambda row: (row["queue_pos"], row["run_id"])):
            if row["run_id"] in here:
                self._queue.append(row["run_id"])
            else:
                self.database.update_run(row["run_id"], status="failed", error="Its folder under outputs/ is gone.")
        # Without a place in the queue: a process has made it and is about to train it, or died before it could.
        for row in rows:
            if row["status"] == "queued" and row["queue_pos"] is None and row["run_id"] in here:
                run = self._directory(row["run_id"])
                if not _maker_lives(run.info()):
                    self.database.update_run(run.run_id, status="interrupted")
                    run.update_info(status="interrupted")

    def _directory(self, run_id: str) -> RunDir:
        return rundir.find_run(run_id)

    def _live(self, run_id: str) -> RunDir:
        run = self._directory(run_id)
        if run_id != self._active and not run.is_alive():
            raise RunError(f"Run {run_id} is not running, so there is nothing to pause, stop or save.")
        return run


def _free_the_gpu() -> None:
    """Models that were opened to be looked at make way for a training; those in the computer's memory may stay."""
    if "lab.sessions.shelf" in sys.modules:  # else nothing was opened, and PyTorch need not be loaded for it
        from lab.sessions import shelf

        shelf.leave("cuda")


def _spare_the_collector() -> None:
    """Take what is there now, PyTorch's and Streamlit's modules, out of all later garbage collections.

    A full collection looks at each of some million objects, and holds the lock that the training thread needs too.
    What polls leave behind sets one off again and again.
    """
    import lab.training.run  # noqa: F401 - for PyTorch, which is loaded with it

    gc.unfreeze()  # what an earlier run left out may be garbage by now
    gc.collect()
    gc.freeze()


def _maker_lives(info: dict[str, Any]) -> bool:
    """Whether the process that made a run, and is not this one, is still there (its number may be used again)."""
    if info["host"] != socket.gethostname():
        return True  # that is for the other machine to say
    try:
        began = psutil.Process(info["pid"]).create_time()
    except psutil.NoSuchProcess:
        return False
    return info["pid"] != os.getpid() and began <= datetime.fromisoformat(info["created_at"]).timestamp()


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"


def _run_status(row: dict[str, Any]) -> RunStatus:
    step, total, pace = row["step"] or 0, row["total_steps"], row["seconds_per_step"]
    left = (total - step) * pace if total is not None and pace is not None else None
    return RunStatus(
        run_id=row["run_id"],
        name=row["name"],
        status=row["status"],
        step=step,
        total_steps=total,
        val_loss=row["val_loss"],
        tokens_per_second=row["tokens_per_second"],
        seconds_left=left,
    )
