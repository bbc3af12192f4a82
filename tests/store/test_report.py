"""The HTML report: complete, self-contained, and safe with whatever a model wrote."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lab.errors import RunError, StoreError
from lab.rundir import RunDir
from lab.store import Database, DatabaseRecorder, adopt
from lab.store.report import report, write_report
from lab.store.svg import Line, chart, ticks
from tests.store.conftest import losses


class _Balance(HTMLParser):
    """Counts tags that are opened and closed."""

    VOID = ("meta", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def run(database: Database, run_dir: RunDir) -> RunDir:
    adopt(database, run_dir)
    recorder = DatabaseRecorder(database, run_dir.run_id)
    recorder.rows("metrics", losses(range(1_200)) + losses(range(0, 1_200, 100), "val/loss"))
    recorder.rows("samples", [{"step": 7, "prompt": "<p>", "text": "</pre><script>alert(1)</script>"}])
    recorder.rows("events", [{"step": 7, "kind": "decision", "message": "because a < b & c"}])
    recorder.close()
    return run_dir


def test_a_report_has_curves_settings_samples_and_events(database: Database, run: RunDir) -> None:
    page = report(database, run.run_id)
    assert page.count("<polyline") == 2
    for part in ("learning_rate", "because a &lt; b &amp; c", "Step 7", "nats per token"):
        assert part in page
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []


def test_a_report_loads_nothing_and_runs_nothing(database: Database, run: RunDir) -> None:
    page = report(database, run.run_id)
    assert not re.search(r"<script|https?://|src=|href=|@import|url\(", page)
    assert "&lt;script&gt;alert(1)" in page


def test_a_report_is_written_whole_or_not_at_all(database: Database, run: RunDir, tmp_path: Path) -> None:
    assert write_report(database, run.run_id, tmp_path / "r.html").read_text() == report(database, run.run_id)
    with pytest.raises(StoreError, match="could not be written"):
        write_report(database, run.run_id, tmp_path / "r.html" / "x")
    with pytest.raises(RunError):
        write_report(database, "nobody", tmp_path / "n.html")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (1.9, 4.3, [1.5, 2, 2.5, 3, 3.5, 4, 4.5]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_numbers_around_the_data(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_constant_or_single_value_can_be_drawn() -> None:
    assert "<circle" in chart([Line("a", "red", [3], [2.0])], x_title="step", y_title="y")
    assert "<polyline" in chart([Line("a", "red", [1, 2], [2.0, 2.0])], x_title="step", y_title="y")
    assert chart([], x_title="step", y_title="y") == ""
