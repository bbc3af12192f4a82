"""A run's progress on standard error: the rows a run records, looked at on their way to the record."""

import sys
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lab.cli.output import progress_line


class Recorder(Protocol):
    """Where rows go."""

    def rows(self, table: str, rows: Sequence[dict[str, Any]]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


class WatchedRecorder:
    """Passes rows on and shows them: a bar on a terminal, else a line for each evaluation and event.

    Use as a context manager: the bar is taken away at the end.
    """

    def __init__(self, recorder: Recorder, total_steps: int | None):
        self._recorder = recorder
        self._total = total_steps
        self.latest: dict[str, float] = {}
        """Metric name -> the newest value."""
        self.step = 0
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=14), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), speed_estimate_period=60)
            self._task = self._bar.add_task("", total=total_steps, figures="")

    def rows(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        self._recorder.rows(table, rows)
        for row in rows:
            if table == "metrics":
                self._metric(row)
            elif table == "events":
                self._say(f"{row['message']}")
            elif table == "runs" and row.get("total_steps"):
                self._total = row["total_steps"]
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step, total=self._total, figures=self._figures())

    def flush(self) -> None:
        self._recorder.flush()

    def close(self) -> None:
        self._recorder.close()

    def rollback(self, after_step: int) -> None:
        self._recorder.rollback(after_step)

    def __enter__(self) -> "WatchedRecorder":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _metric(self, row: dict[str, Any]) -> None:
        self.step = row["step"]
        self.latest[row["name"]] = row["value"]
        if row["name"] == "val/loss":
            of = f" of {self._total:,}" if self._total else ""
            self._say(f"step {self.step:,}{of}: {self._figures()}")

    def _figures(self) -> str:
        """The newest figures in one line, losses in nats per token; short, as 80 columns have to do."""
        shown = {
            "train/loss": "train {:.3f}",
            "val/loss": "val {:.3f}",
            "train/tokens_per_second": "{:,.0f} tok/s",
        }
        return " · ".join(form.format(self.latest[name]) for name, form in shown.items() if name in self.latest)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            progress_line(text)
