"""`lab models` and `lab attention`, in this process."""

import json
from pathlib import Path

import pytest

from lab.cli import main
from lab.models.registry import REGISTRY
from tests.tiny_models import saved, tiny


def document(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_list_names_every_registered_model_with_its_memory(lab_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    listed = document(capsys)["models"]
    assert [model["name"] for model in listed] == [entry.name for entry in REGISTRY]
    assert all(set(model["memory"]) == {"fp32", "bf16", "8bit", "4bit"} for model in listed)
    assert main(["models", "list"]) == 0
    assert "lab models pull NAME" in capsys.readouterr().out


def test_info_with_check_says_whether_the_inside_can_be_shown(
    lab_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tiny("gemma2"), tmp_path / "gemma")
    assert main(["models", "info", str(folder), "--check", "--json"]) == 0
    found = document(capsys)
    assert found["check"]["ok"]
    assert found["anatomy"]["family"] == "Gemma"
    assert found["fits"] == ["fp32", "bf16", "8bit", "4bit"]


def test_attention_lists_heads_and_the_weights_of_one(
    lab_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, stored = saved(tiny("llama"), tmp_path / "llama"), tmp_path / "capture.safetensors"
    command = ["attention", "--model", str(folder), "--text", "a b\na b", "--layer", "1", "--head", "2"]
    assert main([*command, "--store", str(stored), "--json"]) == 0
    found = document(capsys)
    assert found["tokens"] == ["a", "␣", "b", "\\n", "a", "␣", "b"]
    assert len(found["heads"]) == 12
    assert all(abs(sum(row) - 1) < 1e-5 for row in found["weights"])
    assert stored.is_file()
    assert main(command) == 0
    assert "Checked on your model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("models pull nothing-like-this", "There is no model"),
        ("models info gpt9", "no model either"),
        ("models remove gpt2", "nothing to delete"),
        ("attention --model gpt2 --text a", "lab models pull gpt2"),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(
    lab_home: Path, command: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAB_MODEL_CACHE", raising=False)
    assert main(command.split()) == 1
    assert sentence in capsys.readouterr().err
