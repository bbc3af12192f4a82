"""Waiting for what other threads and processes do, and processes to do it in."""

import os
import time
from collections.abc import Callable
from typing import Any

from lab.config import PretrainConfig
from lab.engine import Engine
from lab.store import run_row
from tests.training.helpers import small

ENDLESS = {"max_steps": 1_000_000, "eval_every": 1_000_000}


def endless(**changes: Any) -> PretrainConfig:
    """A run that goes on until somebody stops it."""
    return small(**{**ENDLESS, **changes})


def wait_until(condition: Callable[[], Any], patience_s: float = 60.0) -> Any:
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
    return found


def status_of(engine: Engine, run_id: str) -> str:
    return run_row(engine.database, run_id)["status"]


def wait_for_status(engine: Engine, run_id: str, *wanted: str) -> str:
    return wait_until(lambda: (found := status_of(engine, run_id)) in wanted and found)


def wait_for_step(engine: Engine, run_id: str, step: int = 1) -> int:
    """Until the record knows this step of the run."""
    return wait_until(lambda: (found := recorded_step(engine, run_id)) >= step and found)


def recorded_step(engine: Engine, run_id: str) -> int:
    with engine.cursor() as cursor:
        found = cursor.execute("SELECT coalesce(max(step), -1) FROM metrics WHERE run_id = ?", [run_id]).fetchone()
    assert found is not None
    return found[0]


def learned(engine: Engine, run_id: str) -> list[tuple[Any, ...]]:
    """Every metric row that does not speak of time, speed or memory."""
    with engine.cursor() as cursor:
        return cursor.execute(
            "SELECT step, tokens_seen, name, value FROM metrics WHERE run_id = ? AND name NOT IN "
            "('train/tokens_per_second', 'train/mfu', 'system/memory_gib') ORDER BY ALL",
            [run_id],
        ).fetchall()


def app_here(home: str, runs: dict[str, dict[str, Any]]) -> None:
    """The life of an app's process: its engine, and these runs, by name, submitted to it."""
    os.environ["LAB_HOME"] = home
    from lab.training import machine

    machine._SIZE = {"cpu": 64}
    machine._PEAK_S = 0.0
    engine = Engine.start()
    for name, changes in runs.items():
        engine.submit(small(**changes), name=name)
    while True:
        time.sleep(1)


def cli_here(home: str, run_id: str) -> None:
    """The life of a process that trains a run beside the app."""
    from tests.training.crash import train_here

    train_here(home, run_id, None)
