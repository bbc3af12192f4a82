"""What the processes do that are going to be killed. Each tells through a pipe what it has been promised.

They are forked from a server process that has loaded PyTorch once, so a round costs no import.
"""

import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lab.rundir import RunDir, find_run
from lab.store import Database, DatabaseRecorder, SegmentRecorder, ingest_all

PRELOAD = ["benchmarks.faults.jobs", "lab.training.run", "lab.store.archive", "pyarrow.parquet", "pandas"]


class _Telling:
    """Tells of every flush that returned, and of a rollback before and after it."""

    def __init__(self, pipe: Connection, *arguments: Any):
        super().__init__(*arguments)
        self.pipe = pipe

    def _write(self, taken: Mapping[str, list[dict[str, Any]]]) -> None:
        super()._write(taken)  # type: ignore[misc]
        self.pipe.send(("rows", [(row["name"], row["step"]) for row in taken.get("metrics", ())]))

    def rollback(self, after_step: int) -> None:
        self.flush()  # type: ignore[attr-defined]
        self.pipe.send(("rollback begins", after_step))
        super().rollback(after_step)  # type: ignore[misc]
        self.pipe.send(("rollback done", after_step))


class TellingSegments(_Telling, SegmentRecorder):
    pass


class TellingDatabase(_Telling, DatabaseRecorder):
    pass


def train(home: Path, pipe: Connection, run_id: str, through_segments: bool) -> None:
    """Train a run to its end, recording into the database or into segments."""
    _enter(home)
    from lab.training import machine
    from lab.training.run import train_run

    machine._MEASURE_S, machine._PEAK_S = 0.02, 0.0  # the speed does not matter here, the time to the first step does
    run = find_run(run_id)
    recorder: TellingSegments | TellingDatabase
    if through_segments:
        recorder = TellingSegments(pipe, run)
    else:
        recorder = TellingDatabase(pipe, Database.open(), run.run_id)
    pipe.send(("ready", None))
    outcome = train_run(run, recorder)
    recorder.close()
    pipe.send(("done", (outcome.status, outcome.error)))


def record(home: Path, pipe: Connection, run_id: str, first: int) -> None:
    """Write segments of 20 rows without end."""
    _enter(home)
    run = find_run(run_id)
    recorder = TellingSegments(pipe, run)
    pipe.send(("ready", None))
    with run.lock():
        for step in range(first, 10_000_000, 20):
            recorder.rows("metrics", rows(range(step, step + 20)))
            recorder.flush()


def own(home: Path, pipe: Connection) -> None:
    """Own the record and take in segments without end, as the open app does."""
    _enter(home)
    with Database.open() as database:
        pipe.send(("ready", None))
        while True:
            ingest_all(database)


def open_record(home: Path, pipe: Connection) -> None:
    """Open the record, which brings its schema up to date."""
    _enter(home)
    pipe.send(("ready", None))
    with Database.open():
        pipe.send(("done", None))


def export(home: Path, pipe: Connection, run_id: str, out: Path) -> None:
    """Write the archive of a run again and again."""
    _enter(home)
    from lab.store.archive import export_run

    with Database.open() as database:
        pipe.send(("ready", None))
        while True:
            export_run(database, run_id, out, checkpoints=True)
            pipe.send(("done", None))


def import_(home: Path, pipe: Connection, archive: Path) -> None:
    """Import an archive once."""
    _enter(home)
    from lab.store.archive import import_archive

    pipe.send(("ready", None))
    import_archive(archive)
    pipe.send(("done", None))


def flush_and_die(home: Path, pipe: Connection, run_id: str, flushes: int) -> None:
    """Record into the database and die without closing it, so that all of it is in the write-ahead log."""
    _enter(home)
    database = Database.open()
    database.add_run({"run_id": run_id, "status": "running"})
    recorder = TellingDatabase(pipe, database, run_id)
    for number in range(flushes):
        recorder.rows("metrics", rows(range(number * 20, number * 20 + 20)))
        recorder.flush()
    os._exit(9)


def rows(steps: Sequence[int] | range) -> list[dict[str, Any]]:
    """Metric rows whose value tells their step."""
    return [{"step": s, "tokens_seen": s * 768, "elapsed_s": s / 10, "name": "a", "value": s / 2} for s in steps]


def _enter(home: Path) -> None:
    os.environ["LAB_HOME"] = str(home)
    os.environ["OMP_NUM_THREADS"] = "1"


def run_folder(home: Path, run_id: str) -> RunDir:
    return RunDir(home / "outputs" / run_id)
