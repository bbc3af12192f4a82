"""Several processes record while the app is open, its page polls, and a person asks in SQL.

    python -m benchmarks.concurrency [--seconds 60] [--processes 4] [--rate 1000]

Writes benchmarks/results/concurrency.json. The tests run ten seconds of it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.results import store

RECORDER = """
import sys, time
from lab.rundir import find_run
from lab.store import SegmentRecorder
run, seconds, rate, origin = find_run(sys.argv[1]), *map(float, sys.argv[2:])
recorder = SegmentRecorder(run)
names = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second")
with run.lock():
    recorder.rows("runs", [{"status": "running"}])
    recorder.flush()
    began, step = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while step * len(names) < now * rate:
            shared = {"step": step, "tokens_seen": step * 768, "elapsed_s": time.time() - origin}
            recorder.rows("metrics", [{**shared, "name": name, "value": step / 2} for name in names])
            step += 1
        time.sleep(0.005)
    recorder.rows("runs", [{"status": "finished"}])
    recorder.close()
    run.update_info(status="finished")
print(step * len(names))
"""
QUESTION = "SELECT r.name, count(*) AS rows, max(m.step) AS last FROM metrics m JOIN runs r USING (run_id) GROUP BY ALL"


def measure(
    home: Path, *, seconds: float, processes: int = 4, rate: float = 1_000.0, poll_s: float = 1.0
) -> dict[str, Any]:
    """Record, poll and ask at once; every row has to be there once at the end."""
    os.environ["LAB_HOME"] = str(home)
    from lab.config import PRESETS
    from lab.engine import Engine
    from lab.rundir import create_run
    from lab.store import ingest_all

    runs = [create_run(PRESETS["pocket"], name=f"recorder {number}") for number in range(processes)]
    engine = Engine.start()
    polls: list[float] = []
    delays: list[float] = []
    questions: list[float] = []
    done = threading.Event()
    try:
        _page(engine, runs[0].run_id, 0.0)  # a page that is open: its libraries are loaded
        began = time.time()
        command = [sys.executable, "-c", RECORDER]
        children = [
            subprocess.Popen(
                [*command, run.run_id, *map(str, (seconds, rate, began))], stdout=subprocess.PIPE, text=True
            )
            for run in runs
        ]
        asking = threading.Thread(target=_ask, args=(done, questions))
        asking.start()
        while any(child.poll() is None for child in children):
            started = time.monotonic()
            delays += _page(engine, runs[len(polls) % processes].run_id, began)
            polls.append((time.monotonic() - started) * 1e3)
            time.sleep(max(0.0, poll_s - (time.monotonic() - started)))
        done.set()
        asking.join()
        written = sum(int(child.communicate()[0]) for child in children)
        ingest_all(engine.database)
        with engine.cursor() as cursor:
            sql = "SELECT count(*), count(DISTINCT (run_id, name, step)) FROM metrics"
            ((rows, different),) = cursor.execute(sql).fetchall()
    finally:
        done.set()
        engine.shutdown()
    polls.sort()
    return {
        "seconds": seconds,
        "processes": processes,
        "rows_written": written,
        "rows_in_the_record": rows,
        "rows_twice": rows - different,
        "polls": len(polls),
        "poll_ms": {"median": round(statistics.median(polls), 1), "p95": round(polls[int(0.95 * len(polls))], 1)},
        "newest_row_is_old_s": {"median": round(statistics.median(delays), 2), "max": round(max(delays), 2)}
        if delays
        else {},
        "questions": len(questions),
        "question_ms_median": round(statistics.median(questions), 0) if questions else None,
    }


def _page(engine: Any, run_id: str, began: float) -> list[float]:
    """What the Runs page reads at a poll: the list, one run's newest figures, its curve. Returns how many seconds
    the newest row of the run is behind."""
    from lab.store import find_runs, latest, series

    engine.status()
    with engine.cursor() as cursor:
        find_runs(cursor, limit=50)
        latest(cursor, run_id)
        curve = series(cursor, run_id, "train/loss", x="elapsed_s")
    return [time.time() - began - curve["x"].iloc[-1]] if len(curve) else []


def _ask(done: threading.Event, took: list[float]) -> None:
    """A person who asks a question every other second."""
    from lab.store import run_sql

    while not done.wait(2.0):
        answer = run_sql(QUESTION)
        took.append(answer.seconds * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1_000.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = measure(Path(home), seconds=args.seconds, processes=args.processes, rate=args.rate)
    figures["load_average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(figures, indent=2))
    store("concurrency", figures)


if __name__ == "__main__":
    main()
