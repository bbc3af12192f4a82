"""The same curve recorded and read by one tool, in microseconds a row. Run by `scale.py`, one process per tool.

    python benchmarks/yardsticks.py lab|trackio|mlflow ROWS FOLDER

Four metrics a step, as a training logs them; then the curve of one metric is read back.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

NAMES = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second")


def values(step: int) -> dict[str, float]:
    return {name: 4.0 / (1 + step) + index for index, name in enumerate(NAMES)}


def with_lab(rows: int, home: Path) -> tuple[Callable[[], Any], Callable[[], int]]:
    import pandas  # noqa: F401  # the others load what they read with when they are imported

    from lab.store import Database, DatabaseRecorder, series

    database = Database.open()
    database.add_run({"run_id": "r", "status": "running"})
    recorder = DatabaseRecorder(database, "r")

    def write() -> None:
        for step in range(rows // len(NAMES)):
            shared = {"step": step, "tokens_seen": step * 768, "elapsed_s": step * 0.05}
            recorder.rows("metrics", [{**shared, "name": name, "value": value} for name, value in values(step).items()])
        recorder.flush()

    return write, lambda: int(series(database, "r", NAMES[0], max_points=10**9)["count"].sum())


def with_trackio(rows: int, home: Path) -> tuple[Callable[[], Any], Callable[[], int]]:
    os.environ["TRACKIO_DIR"] = str(home)
    import trackio

    def write() -> None:
        trackio.init(project="yardstick", name="r", embed=False)
        for step in range(rows // len(NAMES)):
            trackio.log(values(step), step=step)
        trackio.finish()

    def read() -> int:
        from trackio.sqlite_storage import SQLiteStorage

        logs = SQLiteStorage.get_logs("yardstick", "r", max_points=None)
        return sum(NAMES[0] in log for log in logs)

    return write, read


def with_mlflow(rows: int, home: Path) -> tuple[Callable[[], Any], Callable[[], int]]:
    import mlflow
    from mlflow.tracking import MlflowClient

    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    experiment = mlflow.create_experiment("yardstick", artifact_location=str(home / "artifacts"))
    run = mlflow.start_run(experiment_id=experiment)

    def write() -> None:
        for step in range(rows // len(NAMES)):
            mlflow.log_metrics(values(step), step=step, synchronous=False)
        mlflow.flush_async_logging()

    return write, lambda: len(MlflowClient().get_metric_history(run.info.run_id, NAMES[0]))


TOOLS = {"lab": with_lab, "trackio": with_trackio, "mlflow": with_mlflow}


def main() -> None:
    tool, rows, home = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    write, read = TOOLS[tool](rows, home)
    started = time.perf_counter()
    write()
    written = time.perf_counter() - started
    started = time.perf_counter()
    count = read()
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    figures = {
        "version": metadata.version("llm-learning-lab" if tool == "lab" else tool),
        "write_us_per_row": round(written / rows * 1e6, 1),
        "read_us_per_row": round(seconds / max(count, 1) * 1e6, 2),
        "rows_read_back": count,
        "rows_expected": rows // len(NAMES),
        "bytes_per_row": round(size / rows, 1),
    }
    print(json.dumps(figures), flush=True)
    os._exit(0)  # background threads of the tools need not be waited for


if __name__ == "__main__":
    main()
