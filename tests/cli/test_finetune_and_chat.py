"""`lab finetune`, `lab chat`: from the command line to an adapter that answers."""

import json
from pathlib import Path

import pytest

from lab.cli import main
from lab.rundir import all_runs, find_run
from tests.finetuning.conftest import quick as quick
from tests.finetuning.conftest import tiny_llama as tiny_llama

FLAGS = (
    "--dataset pirate --max-length 512 --batch-size 2 --max-steps 2 --eval-tokens 500 --sample-tokens 2 --rank 4 "
    "--threads 1 --precision fp32 --device cpu --learning-rate 1e-2"
).split()

pytestmark = pytest.mark.usefixtures("quick")


def tuned(model: Path | str, *more: str) -> int:
    return main(["finetune", "--model", str(model), "--name", "parrot", *FLAGS, *more])


def test_finetune_makes_a_run_that_generate_chat_fork_and_resume_understand(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned(tiny_llama, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["steps"]) == ("finished", 2)
    assert find_run("parrot").info()["kind"] == "finetune"

    assert main(["generate", "--run", "parrot", "--prompt", "Ahoy", "--max-new-tokens", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tokens"]) == 3

    chat = ["chat", "--adapter", "parrot", "--prompt", "What is up?", "--max-new-tokens", "4", "--json"]
    assert main(chat) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["tokens"]) == 4
    assert any(token["kl"] > 0 for token in answer["tokens"])
    assert main([*chat, "--model", str(tiny_llama), "--scale", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 0

    assert main(["fork", "parrot", "--max-steps", "3", "--learning-rate", "1e-3", "--name", "child"]) == 0
    assert find_run("child").config().optim.learning_rate == 1e-3
    assert main(["resume", "parrot"]) == 1
    assert "nothing to go on with" in capsys.readouterr().err


def test_a_setting_of_the_other_kind_is_refused_when_forking(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned(tiny_llama) == 0
    assert main(["fork", "parrot", "--emb-dim", "64"]) == 1
    assert "no setting 'emb_dim'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dataset", "nowhere.jsonl"], "no data set 'nowhere.jsonl'"),
        (["--rank", "0"], "rank is 0"),
        (["--mode", "fast"], "fast mode needs"),
        (["--max-length", "20"], "cuts off the end of the answer"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    flags: list[str], said: str, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned(tiny_llama, *flags) == 1
    assert said in capsys.readouterr().err
    assert not all_runs()


def test_an_adapter_is_asked_with_its_own_base_only(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.finetuning.helpers import tiny_folder

    assert tuned(tiny_llama) == 0
    other = tiny_folder(tmp_path / "other", "qwen2")
    assert main(["chat", "--adapter", "parrot", "--model", str(other), "--prompt", "x"]) == 1
    assert "was trained on" in capsys.readouterr().err
