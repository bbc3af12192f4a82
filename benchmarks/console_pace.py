"""What a person who asks hard questions in SQL costs a training that is going on.

    python -m benchmarks.console_pace [--rounds 10] [--seconds 6]

A training runs in this process, as in the app; questions are asked in every other stretch of some seconds, one after
the other without a pause. Stretches with and without alternate, so that a machine that gets busier or hotter touches
both alike. Writes benchmarks/results/console_pace.json.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.results import store

QUESTIONS = (
    "SELECT run_id, name, avg(value) FROM metrics GROUP BY ALL ORDER BY ALL",
    "SELECT count(*) FROM range(100000) a, range(20000) b",
    "SELECT median(value), mode(step) FROM metrics",
    "SELECT string_agg(a.range::VARCHAR, 'x') FROM range(3000000) a",
)
SETTLE_S = 0.5  # at each change, left out of the figures


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
    clock, asked, stop = StepClock(), [0], threading.Event()
    stretches: list[tuple[bool, float, float]] = []
    config = changed(PRESETS["pocket"], max_steps=10_000_000, eval_every=10_000_000, checkpoint_every=10_000_000)
    run = create_run(config)
    database = Database.open()
    trainer = threading.Thread(target=train_run, args=(run, clock))
    trainer.start()

    def ask(until: float) -> None:
        for sql in itertools.cycle(QUESTIONS):
            left = until - time.monotonic()
            if left <= 0.2 or stop.is_set():
                return
            try:
                run_sql(sql, timeout_s=left)
            except StoreError:
                continue  # the stretch is over
            asked[0] += 1

    try:
        while len(clock.at) < 20:  # set-up and measuring are over
            if not trainer.is_alive():
                raise RuntimeError(f"the training ended: {run.info().get('error')}")
            time.sleep(0.05)
        for number in range(2 * rounds):
            began = time.monotonic()
            if number % 2:
                ask(began + seconds)
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            stretches.append((bool(number % 2), began + SETTLE_S, time.monotonic()))
    finally:
        stop.set()
        run.ask(want="stop")
        trainer.join()
        database.close()
    paces: dict[bool, list[float]] = {False: [], True: []}
    for with_questions, start, end in stretches:
        paces[with_questions].append(sum(start <= at < end for at in clock.at) / (end - start))
    ratios = [busy / quiet for quiet, busy in zip(paces[False], paces[True], strict=True)]
    return {
        "rounds": rounds,
        "seconds": seconds,
        "questions": asked[0],
        "steps_per_s": {
            "alone": round(statistics.median(paces[False]), 1),
            "asked": round(statistics.median(paces[True]), 1),
        },
        "pace_kept": round(statistics.median(ratios), 3),
        "pace_kept_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = measure(Path(home), rounds=args.rounds, seconds=args.seconds)
    print(json.dumps(figures, indent=2))
    store("console_pace", figures)


if __name__ == "__main__":
    main()
