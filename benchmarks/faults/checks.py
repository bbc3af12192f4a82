"""What has to hold after a fault, whatever the fault was."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks.faults import jobs
from lab.models.checkpoints import is_whole, list_checkpoints
from lab.rundir import RunDir
from lab.store import Database, run_row, sweep
from lab.store.opening import TORN

Row = tuple[str, int]  # metric, step


@dataclass
class Verdict:
    """What became of one round."""

    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    unopened: int = 0
    untrue: int = 0
    """Statuses that do not say what is."""
    unnamed: int = 0
    """Damage that nobody was told of."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.duplicated or self.unopened or self.untrue or self.unnamed)


class Promises:
    """The rows that a recorder has acknowledged and not taken back."""

    def __init__(self) -> None:
        self.rows: set[Row] = set()
        self.finished = False
        self.ended: Any = None

    def hear(self, kind: str, value: Any) -> None:
        if kind == "rows":
            self.rows.update((name, step) for name, step in value)
        elif kind.startswith("rollback"):  # from its beginning on, they may be gone
            self.rows = {(name, step) for name, step in self.rows if step <= value}
        elif kind == "done":
            self.finished, self.ended = True, value


def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(jobs.PRELOAD)
    return found


@contextmanager
def process(job: Callable[..., None], home: Path, *arguments: Any) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A child that does a job, and the pipe it tells through; killed at the end of the block if it still lives."""
    ours, theirs = context().Pipe(duplex=False)
    child = context().Process(target=job, args=(home, theirs, *arguments))
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join()
        ours.close()


def wait_ready(pipe: Connection, patience_s: float = 120.0) -> None:
    if not pipe.poll(patience_s):
        raise TimeoutError("a child did not get ready")
    kind, _ = pipe.recv()
    assert kind == "ready", kind


def listen(pipe: Connection, promises: Promises, seconds: float) -> None:
    """Hear what a child tells for so long, or until it ends."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if pipe.poll(left):
            try:
                promises.hear(*pipe.recv())
            except EOFError:
                return


def kill(child: ForkServerProcess, pipe: Connection, promises: Promises) -> None:
    """kill -9, and hear the last words."""
    child.kill()
    child.join()
    while True:
        try:
            if not pipe.poll(0):
                return
            promises.hear(*pipe.recv())
        except (EOFError, OSError):
            return


@contextmanager
def opened(home: Path, verdict: Verdict, *, told: bool = False) -> Iterator[Database]:
    """The record as its next owner finds it. `told`: notices are expected, because something was damaged."""
    os.environ["LAB_HOME"] = str(home)
    with Database.open(home / "runs.duckdb") as database:
        if not told and any(notice != TORN for notice in database.notices):
            verdict.unopened += 1
            verdict.notes += database.notices
        yield database


def check_run(
    database: Database, run: RunDir, promises: Promises, verdict: Verdict, *, status: tuple[str, ...]
) -> None:
    """Every acknowledged row once; the status true in record and folder; every checkpoint whole."""
    sweep(database)
    with database.cursor() as cursor:
        sql = "SELECT name, step FROM metrics WHERE run_id = ?"
        there = Counter(cursor.execute(sql, [run.run_id]).fetchall())
    verdict.acknowledged += len(promises.rows)
    verdict.lost += sum(row not in there for row in promises.rows)
    verdict.duplicated += sum(count - 1 for count in there.values())
    said = {run_row(database, run.run_id)["status"], run.info()["status"]}
    if not (len(said) == 1 and said <= set(status)):
        verdict.untrue += 1
        verdict.notes.append(f"status {sorted(said)}, expected one of {status}")
    for info in list_checkpoints(run):
        if not is_whole(info):
            verdict.unopened += 1
            verdict.notes.append(f"{info.path.name} is not whole")
