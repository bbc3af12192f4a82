"""An engine of one's own, and ways to wait for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.engine import Engine
from lab.training import machine


@pytest.fixture(autouse=True)
def _quick_measurements(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured once per machine is measured once per LAB_HOME here, and each test has its own."""
    monkeypatch.setattr(machine, "_MEASURE_S", 0.02)
    monkeypatch.setattr(machine, "_PEAK_S", 0.0)
    monkeypatch.setattr(machine, "_SIZE", {"cpu": 64})


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine.start()
    yield engine
    engine.shutdown()
