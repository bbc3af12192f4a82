"""5,000 runs and 20 million metric rows: how quick the Runs page is, and how large the file.

    python -m benchmarks.scale [--runs 5000] [--rows 20000000] [--yardsticks PYTHON]

Writes benchmarks/results/scale.json. `--yardsticks` names a Python that has trackio and mlflow (the extra `bench`);
they then record and read 200,000 rows as the lab does, and are compared per row.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.record import milliseconds
from benchmarks.results import store

NAMES = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "val/loss")
YARDSTICK_ROWS = 200_000


def fill(home: Path, runs: int, rows: int, live: int = 2) -> list[str]:
    """Runs of equal length under different settings and seeds, the last `live` of them running. Returns their ids."""
    os.environ["LAB_HOME"] = str(home)
    from lab.config import PRESETS, changed, to_json
    from lab.store import Database

    steps = rows // runs // len(NAMES)
    now = datetime.now(UTC)
    ids = []
    with Database.open() as database:
        for number in range(runs):
            when = now - timedelta(minutes=runs - number)
            run_id = f"{when:%Y%m%d-%H%M%S}-{number:04x}"
            ids.append(run_id)
            settings = {
                "seed": number % 3,
                "learning_rate": 10.0 ** -(2 + number // 3 % 40 / 20),
                "batch_size": 1 + number // 120 % 16,
            }
            config = to_json(changed(PRESETS["pocket"], **settings))
            row = {"run_id": run_id, "name": f"run {number}", "kind": "pretrain", "config": config, "created_at": when}
            more = {"tags": [f"tag {number % 7}"], "n_params": 1_000_000, "status": "running"}
            database.add_run({**row, **more})
        for first in range(0, runs, 250):
            with database.writing() as cursor:
                cursor.execute(
                    "INSERT INTO metrics SELECT r, s, s * 768, s * 0.05, n, 3 + random() / (1 + s) "
                    "FROM (SELECT unnest(?) AS r), range(?) t(s), (SELECT unnest(?) AS n)",
                    [ids[first : first + 250], steps, list(NAMES)],
                )
        with database.writing() as cursor:
            cursor.execute("UPDATE runs SET status = 'finished' WHERE list_contains(?, run_id)", [ids[: runs - live]])
    return ids


def measure(home: Path, ids: list[str]) -> dict[str, Any]:
    """What the Runs page asks, each question alone, in milliseconds of this process."""
    os.environ["LAB_HOME"] = str(home)
    from lab.store import Database, RunSearch, choices, contrast, find_runs, latest, seed_spread, series, several
    from lab.store.queries import live_runs
    from lab.store.snapshot import make_snapshot

    found: dict[str, Any] = {}
    started = time.perf_counter()
    with Database.open() as database:
        found["first_open_s"] = round(time.perf_counter() - started, 2)  # sums up the runs that ended
        with database.cursor() as cursor:
            ((runs, rows),) = cursor.execute(
                "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM metrics)"
            ).fetchall()
        found |= {"runs": runs, "rows": rows}
        by_metric = RunSearch(sort="val/loss", value="best", ascending=True)
        chosen, live = ids[len(ids) // 2], ids[-1]
        questions: dict[str, Callable[[], Any]] = {
            "first page of runs": lambda: find_runs(database, limit=50),
            "first page, best val/loss first": lambda: find_runs(database, by_metric, limit=50),
            "first page, words and a tag": lambda: find_runs(
                database, RunSearch(text="run 12", tags=("tag 3",)), limit=50
            ),
            "all runs": lambda: find_runs(database),
            "what there is to filter by": lambda: choices(database),
            "one run's chart, 1,000 points": lambda: series(database, chosen, "train/loss"),
            "one live run's newest figures": lambda: latest(database, live),
            "live runs for the status strip": lambda: live_runs(database),
            "20 curves over each other": lambda: several(
                database, {one: one for one in ids[:20]}, "train/loss", max_points=400
            ),
            "seed noise of 20 runs": lambda: seed_spread(database, ids[:20]),
            "these two differ in": lambda: contrast(database, ids[0], ids[500 % len(ids)]),
        }
        found["ms"] = {name: milliseconds(question, repeats=7) for name, question in questions.items()}
        found["runs_page_ms"] = round(
            sum(found["ms"][name]["median"] for name in ("first page of runs", "what there is to filter by",
                                                         "live runs for the status strip"))
        )  # fmt: skip
        started = time.perf_counter()
        make_snapshot(database)
        found["snapshot_s"] = round(time.perf_counter() - started, 2)
    size = (home / "runs.duckdb").stat().st_size
    started = time.perf_counter()
    Database.open().close()
    found |= {"open_s": round(time.perf_counter() - started, 2), "file_mb": round(size / 1e6, 1)}
    return {**found, "bytes_per_row": round(size / rows, 1)}


def yardsticks(python: str) -> dict[str, Any]:
    """The same writes and reads by the lab and by others, each in a process of its own."""
    script = Path(__file__).with_name("yardsticks.py")
    found = {}
    for tool, interpreter in (("lab", None), ("trackio", python), ("mlflow", python)):
        with tempfile.TemporaryDirectory() as home:
            import sys

            command = [interpreter or sys.executable, str(script), tool, str(YARDSTICK_ROWS), home]
            environment = {**os.environ, "PYTHONPATH": str(script.parent.parent), "LAB_HOME": home}
            answer = subprocess.run(command, capture_output=True, text=True, env=environment)
        if answer.returncode == 0:
            found[tool] = json.loads(answer.stdout.splitlines()[-1])
        else:
            found[tool] = {"error": (answer.stderr.strip().splitlines() or ["no message"])[-1]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--yardsticks", metavar="PYTHON", help="a Python with trackio and mlflow")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        ids = fill(Path(home), args.runs, args.rows)
        figures = measure(Path(home), ids)
    figures["load_average"] = round(os.getloadavg()[0], 1)
    if args.yardsticks:
        figures["yardsticks"] = {"rows": YARDSTICK_ROWS, **yardsticks(args.yardsticks)}
    print(json.dumps(figures, indent=2))
    store("scale", figures)


if __name__ == "__main__":
    main()
