"""Rounds on a small disk that runs full in the middle of each kind of write."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults import jobs
from benchmarks.faults.checks import Promises, Verdict, check_run, opened
from benchmarks.faults.kills import fill, old_record, tiny
from lab.errors import LabError
from lab.models.checkpoints import is_whole, list_checkpoints
from lab.rundir import RunDir, create_run
from lab.store import Database, DatabaseRecorder, SegmentRecorder
from lab.store.archive import export_run

SIZE_MIB = 12


def can_mount() -> bool:
    """Whether this process may make a small disk of its own."""
    return os.geteuid() == 0 and subprocess.run(["mount", "--version"], capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        os.environ.pop("LAB_HOME", None)
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def _ballast(disk: Path, leave: int) -> Iterator[None]:
    """Fill the disk but for `leave` bytes; empty it again afterwards."""
    status = os.statvfs(disk)
    free = status.f_bavail * status.f_frsize
    (disk / "ballast").write_bytes(b"\0" * max(0, free - leave))
    try:
        yield
    finally:
        (disk / "ballast").unlink()


def full_while_recording(luck: random.Random, home: Path) -> Verdict:
    """The recorder in the owner's process."""
    return _recording(luck, home, through_segments=False)


def full_while_writing_segments(luck: random.Random, home: Path) -> Verdict:
    return _recording(luck, home, through_segments=True)


def _recording(luck: random.Random, home: Path, *, through_segments: bool) -> Verdict:
    verdict, promises = Verdict(), Promises()
    with small_disk(home / "disk") as disk:
        os.environ["LAB_HOME"] = str(disk)
        run = create_run(tiny(disk))
        run.update_info(status="running")
        database = Database.open(disk / "runs.duckdb")
        database.add_run({"run_id": run.run_id, "status": "running"})
        recorder = SegmentRecorder(run) if through_segments else DatabaseRecorder(database, run.run_id)
        with _ballast(disk, luck.randrange(20_000, 1_500_000)):
            step = 0
            try:
                while step < 2_000_000:
                    rows = jobs.rows(range(step, step + luck.randrange(1, 4_000)))
                    recorder.rows("metrics", rows)
                    recorder.flush()
                    promises.hear("rows", [(row["name"], row["step"]) for row in rows])
                    step += len(rows)
                verdict.unnamed += 1
                verdict.notes.append("the disk did not run full")
            except LabError as error:
                _is_told(error, verdict)
            finally:
                database.close()
        with opened(disk, verdict) as again:
            check_run(again, run, promises, verdict, status=("interrupted",))
    return verdict


def full_while_checkpointing(luck: random.Random, home: Path) -> Verdict:
    """Checkpoints that were written before stay whole, the half-written one is nowhere."""
    import torch

    from lab.models.checkpoints import write_checkpoint

    verdict, written = Verdict(), 0
    with small_disk(home / "disk") as disk:
        os.environ["LAB_HOME"] = str(disk)
        run = create_run(tiny(disk))
        with _ballast(disk, luck.randrange(100_000, 8_000_000)):
            try:
                for step in range(1, 1_000):
                    tensors = {"model.w": torch.zeros(luck.randrange(1_000, 300_000))}
                    write_checkpoint(run.checkpoints, step=step, tensors=tensors, state={}, val_loss=None, kind="kept")
                    written = step
            except LabError as error:
                _is_told(error, verdict)
            found = [info.step for info in list_checkpoints(run) if is_whole(info)]
        verdict.acknowledged = written
        verdict.lost += sum(step not in found for step in range(1, written + 1))
        verdict.unopened += len(list_checkpoints(run)) - len(found)
        verdict.notes += [f"{path.name} was left behind" for path in run.checkpoints.glob(".*.tmp")]
        verdict.unopened += len(list(run.checkpoints.glob(".*.tmp")))
    return verdict


def full_while_migrating(luck: random.Random, home: Path) -> Verdict:
    """The old record is untouched, and is brought up to date when there is room."""
    rows, verdict = luck.randrange(1_000, 150_000), Verdict()
    verdict.acknowledged = rows
    with small_disk(home / "disk") as disk:
        os.environ["LAB_HOME"] = str(disk)
        old_record(disk / "runs.duckdb", rows)
        with _ballast(disk, luck.randrange(4_096, 1_200_000)):
            try:
                Database.open(disk / "runs.duckdb").close()
            except LabError as error:
                _is_told(error, verdict)
        with opened(disk, verdict) as database, database.cursor() as cursor:
            ((count, last),) = cursor.execute("SELECT count(*), max(last_step) FROM metrics, run_totals").fetchall()
        verdict.lost += max(0, rows - count)
        verdict.duplicated += max(0, count - rows)
        verdict.untrue += int(last != rows - 1)
    return verdict


def full_while_exporting(luck: random.Random, home: Path) -> Verdict:
    """No half archive is left, and the earlier one stays."""
    verdict = Verdict()
    with small_disk(home / "disk") as disk:
        os.environ["LAB_HOME"] = str(disk)
        run: RunDir = create_run(tiny(disk))
        out = disk / "run.labrun"
        with Database.open(disk / "runs.duckdb") as database:
            fill(database, run, luck.randrange(100, 20_000), luck)
            export_run(database, run.run_id, out)
            before = out.read_bytes()
            with _ballast(disk, luck.randrange(0, 60_000)):
                try:
                    export_run(database, run.run_id, out, checkpoints=True)
                except LabError as error:
                    _is_told(error, verdict)
                    verdict.lost += int(out.read_bytes() != before)
        verdict.acknowledged = 1
        verdict.unopened += len(list(disk.glob(".run.labrun.*")))
    return verdict


def _is_told(error: LabError, verdict: Verdict) -> None:
    """One sentence that names the disk."""
    text = str(error)
    if "\n" in text or not ("disk" in text or "space" in text):
        verdict.unnamed += 1
        verdict.notes.append(text)
