"""Fixtures of the fine-tuning tests."""

from pathlib import Path

import pytest

from lab.training import machine
from tests.finetuning.helpers import tiny_folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of random weights that chats."""
    return tiny_folder(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def quick(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LAB_HOME; what is measured once per machine is measured for a moment only."""
    monkeypatch.setattr(machine, "_MEASURE_S", 0.02)
    monkeypatch.setattr(machine, "_PEAK_S", 0.0)
    monkeypatch.setattr(machine, "_SIZE", {"cpu": 64})
    return lab_home
