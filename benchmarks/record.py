"""What recording costs a training, and how quickly a page reads while it goes on.

    python -m benchmarks.record [--rows 1000000]

Writes benchmarks/results/record.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import store
from lab.config import PRESETS
from lab.rundir import create_run
from lab.store import Database, DatabaseRecorder, SegmentRecorder, ingest, latest, list_runs, series
from lab.store.snapshot import make_snapshot

NAMES = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second")
RUNS = 5
PACES = ((200, 5), (2_000, 100))  # steps in all, steps between two flushes: a slow model, a quick one


def milliseconds(action: Callable[[], Any], repeats: int = 30) -> dict[str, float]:
    """Median and 95th percentile of repeated calls, after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1e3)
    times.sort()
    return {"median": round(statistics.median(times), 2), "p95": round(times[int(0.95 * len(times))], 2)}


def step_rows(step: int) -> list[dict[str, Any]]:
    shared = {"step": step, "tokens_seen": step * 768, "elapsed_s": step * 0.05}
    return [{**shared, "name": name, "value": 4.0 / (1 + step) + index} for index, name in enumerate(NAMES)]


def cost_of_recording(recorder: DatabaseRecorder | SegmentRecorder, steps: int, flush_every: int) -> dict[str, float]:
    """Microseconds a row as the training thread feels them, and milliseconds a flush."""
    flushes = []
    started = time.perf_counter()
    for step in range(steps):
        recorder.rows("metrics", step_rows(step))
        if step % flush_every == flush_every - 1:
            before = time.perf_counter()
            recorder.flush()
            flushes.append((time.perf_counter() - before) * 1e3)
    seconds = time.perf_counter() - started
    return {
        "rows_per_flush": flush_every * len(NAMES),
        "us_per_row": round(seconds / (steps * len(NAMES)) * 1e6, 1),
        "flush_ms_median": round(statistics.median(flushes), 2),
    }


def fill(database: Database, rows: int) -> str:
    """`rows` metric rows over a few runs. Returns the last run's id."""
    steps = rows // len(NAMES) // RUNS
    for number in range(RUNS):
        run_id = f"run-{number}"
        database.add_run({"run_id": run_id, "name": run_id, "status": "finished", "created_at": datetime.now(UTC)})
        with database.writing() as cursor:
            cursor.execute(
                "INSERT INTO metrics SELECT ?, i // ?, i * 192, i * 0.01, list_extract(?, 1 + i % ?), random() "
                "FROM range(?) t(i)",
                [run_id, len(NAMES), list(NAMES), len(NAMES), steps * len(NAMES)],
            )
    database.checkpoint()
    return f"run-{RUNS - 1}"


def measure(rows: int, home: Path) -> dict[str, Any]:
    os.environ["LAB_HOME"] = str(home)
    found: dict[str, Any] = {}
    with Database.open() as database:
        run_id = fill(database, rows)
        found["bytes_per_row"] = round((home / "runs.duckdb").stat().st_size / rows, 1)
        found["poll_ms"] = {
            "latest": milliseconds(lambda: latest(database, run_id)),
            "series, 1,000 points": milliseconds(lambda: series(database, run_id, NAMES[0])),
            "list of all runs": milliseconds(lambda: list_runs(database)),
            "list of the last 2 runs": milliseconds(lambda: list_runs(database, limit=2)),
        }
        run = create_run(PRESETS["pocket"])
        found["record"] = {
            "database": [cost_of_recording(DatabaseRecorder(database, run.run_id), *pace) for pace in PACES],
            "segments": [cost_of_recording(SegmentRecorder(run), *pace) for pace in PACES],
        }
        started = time.perf_counter()
        taken = ingest(database, run)
        found["ingest_us_per_row"] = round((time.perf_counter() - started) / taken * 1e6, 1)
        started = time.perf_counter()
        make_snapshot(database)
        found["snapshot_ms"] = round((time.perf_counter() - started) * 1e3)
    started = time.perf_counter()
    Database.open().close()
    found["open_ms"] = round((time.perf_counter() - started) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as home:
        found = measure(rows, Path(home))
    figures = {"rows": rows, "load_average": round(os.getloadavg()[0], 1), **found}
    print(json.dumps(figures, indent=2))
    store("record", figures)


if __name__ == "__main__":
    main()
