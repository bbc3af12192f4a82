"""`lab estimate`."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab.cli import main
from tests.finetuning.conftest import tiny_llama as tiny_llama

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


def test_a_fine_tuning_is_forecast_when_a_model_is_named(
    lab_home: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["estimate", "--model", str(tiny_llama), "--device", "cuda", "--precision", "bf16", "--json"]

    def memory(*more: str) -> dict[str, Any]:
        assert main([*flags, *more]) == 0
        return json.loads(capsys.readouterr().out)["memory"]

    plain, quantised = memory(), memory("--method", "qlora")
    assert plain["peak_bytes"] == sum(plain["breakdown"].values())
    assert plain["verdicts"][0]["colour"] == "green"
    assert quantised["breakdown"]["weights"] < plain["breakdown"]["weights"]
    assert memory("--method", "full")["breakdown"]["optimizer"] > plain["breakdown"]["optimizer"]
    assert memory("--dora")["peak_bytes"] > plain["peak_bytes"]
    assert quantised["breakdown"]["weights"] < memory("--method", "lora_8bit")["breakdown"]["weights"]


def test_a_setting_of_fine_tuning_alone_is_no_setting_of_pretraining(
    lab_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", "--rank", "4"]) == 1
    assert "no setting 'rank'" in capsys.readouterr().err
