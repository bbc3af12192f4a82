"""`lab estimate`."""

import json
from pathlib import Path

import pytest

from lab.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = "estimate --preset nano --n-layers 2 --emb-dim 64 --context-length 64 --batch-size 2 --precision fp32".split()


def test_json_holds_memory_and_time_and_nothing_else_is_on_standard_output(
    lab_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--device", "cuda", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    memory = document["memory"]
    assert memory["peak_bytes"] == sum(memory["breakdown"].values())
    assert memory["total_bytes"] == memory["peak_bytes"] + sum(memory["modelled"].values())
    assert memory["verdicts"][0]["colour"] == "green"
    assert "time_s" in document


def test_a_gpu_that_is_not_here_is_forecast_and_said_to_be_unmeasured(
    lab_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--device", "cuda", "--budget-gib", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "not yet measured" in text
    assert "Does not fit in 0.5 GB" in text


def test_nothing_is_written_but_the_measured_speed(lab_home: Path) -> None:
    assert main([*SMALL, "--device", "cpu", "--json"]) == 0
    assert {path.name for path in lab_home.rglob("*") if path.is_file()} <= {"machine.json"}
