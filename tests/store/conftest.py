"""An open record, a run folder, and disks that are full or read-only."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.config import PRESETS
from lab.rundir import RunDir, create_run
from lab.store import Database


@pytest.fixture
def database(lab_home: Path) -> Iterator[Database]:
    with Database.open() as database:
        yield database


@pytest.fixture
def run_dir(lab_home: Path) -> RunDir:
    return create_run(PRESETS["pocket"], name="a run")


def losses(steps: range | list[int], name: str = "train/loss") -> list[dict]:
    """Metric rows whose value tells their step."""
    return [{"step": s, "tokens_seen": s * 768, "elapsed_s": s / 10, "name": name, "value": s / 2} for s in steps]


def recorded_steps(database: Database, run_id: str) -> list[int]:
    with database.cursor() as cursor:
        found = cursor.execute("SELECT step FROM metrics WHERE run_id = ? ORDER BY step, rowid", [run_id]).fetchall()
    return [step for (step,) in found]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB of its own."""
    yield from _mounted(tmp_path / "disk")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with a record on it that can no longer be written."""
    for disk in _mounted(tmp_path / "disk"):
        Database.open(disk / "runs.duckdb").close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield disk


def _mounted(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs a small disk: mounting a tmpfs takes root's rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
