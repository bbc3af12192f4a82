"""What questions in SQL cost a training that is going on, on the same cores.

    python -m benchmarks.console_pace [--rounds 8] [--seconds 12]

A training runs in this process, as in the app. Two kinds of stretches alternate with undisturbed ones, so that a
machine that gets busier or hotter touches all alike: "hard", in which one question computes without an end, and
"person", in which questions follow each other and each answer is read for three seconds. Writes
benchmarks/results/console_pace.json.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.results import store

QUESTIONS = (
    "SELECT run_id, name, avg(value) FROM metrics GROUP BY ALL ORDER BY ALL",
    "SELECT count(*) FROM range(100000) a, range(20000) b",
    "SELECT median(value), mode(step) FROM metrics",
    "SELECT string_agg(a.range::VARCHAR, 'x') FROM range(3000000) a",
)
HARD = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
READING_S = 3.0
KINDS = ("hard", "person")


class StepClock:
    """A recorder that only notes when each step was."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def rows(self, table: str, rows: Any) -> None:
        if table == "metrics" and any(row["name"] == "train/loss" for row in rows):
            self.at.append(time.monotonic())

    def flush(self) -> None: ...

    def rollback(self, after_step: int) -> None: ...

    def close(self) -> None: ...


def measure(home: Path, *, rounds: int, seconds: float) -> dict[str, Any]:
    os.environ["LAB_HOME"] = str(home)
    from benchmarks.scale import fill
    from lab.config import PRESETS, changed
    from lab.errors import StoreError
    from lab.rundir import create_run
    from lab.store import Database, run_sql
    from lab.training.run import train_run

    fill(home, 50, 500_000)
    clock, asked = StepClock(), [0]
    stretches: list[tuple[str, float, float]] = []
    config = changed(PRESETS["pocket"], max_steps=10_000_000, eval_every=10_000_000, checkpoint_every=10_000_000)
    run = create_run(config)
    database = Database.open()
    trainer = threading.Thread(target=train_run, args=(run, clock))
    trainer.start()

    def ask(questions: Iterable[str], until: float, pause: float) -> None:
        for sql in questions:
            with contextlib.suppress(StoreError):  # the stretch is over
                run_sql(sql, timeout_s=seconds, stop=lambda: time.monotonic() > until)
                asked[0] += 1
            time.sleep(max(0.0, min(pause, until - time.monotonic())))
            if time.monotonic() >= until:
                return

    try:
        while len(clock.at) < 20:  # set-up and measuring are over
            if not trainer.is_alive():
                raise RuntimeError(f"the training ended: {run.info().get('error')}")
            time.sleep(0.05)
        for kind in ("alone", "hard", "alone", "person") * rounds:
            began = time.monotonic()
            if kind == "hard":
                ask([HARD], began + seconds, 0.0)
            elif kind == "person":
                ask(itertools.cycle(QUESTIONS), began + seconds, READING_S)
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            stretches.append((kind, began, time.monotonic()))
    finally:
        run.ask(want="stop")
        trainer.join()
        database.close()
    paces = [sum(start <= at < end for at in clock.at) / (end - start) for _, start, end in stretches]
    return {
        "rounds": rounds,
        "seconds": seconds,
        "answers": asked[0],
        "steps_per_s_alone": round(statistics.median(paces[::2]), 1),
        **{kind: _kept(paces[::2], paces[1::2], [name == kind for name, *_ in stretches[1::2]]) for kind in KINDS},
        "load_average": round(os.getloadavg()[0], 1),
    }


def _kept(alone: list[float], asked: list[float], chosen: list[bool]) -> dict[str, Any]:
    """The share of the pace that is kept, each stretch against the undisturbed one before it."""
    ratios = [there / before for before, there, is_meant in zip(alone, asked, chosen, strict=True) if is_meant]
    return {
        "pace_kept": round(statistics.median(ratios), 3),
        "pace_kept_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = measure(Path(home), rounds=args.rounds, seconds=args.seconds)
    print(json.dumps(figures, indent=2))
    store("console_pace", figures)


if __name__ == "__main__":
    main()
