"""*fast* mode where there is no GPU: looked for without being imported, and refused in one sentence."""

import sys
from pathlib import Path

import pytest
import torch

from lab.errors import ConfigError
from lab.finetuning import fast
from lab.finetuning.fast_worker import FastFineTuneJob
from lab.rundir import create_run
from lab.training.run import train_run
from tests.finetuning.helpers import config_for
from tests.training.helpers import RowList

pytestmark = pytest.mark.usefixtures("quick")


def test_looking_for_unsloth_imports_nothing_of_it() -> None:
    fast.why_not()
    fast.is_installed()
    fast.is_here()
    assert "unsloth" not in sys.modules


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_reason_is_the_gpu() -> None:
    assert "needs an NVIDIA GPU" in fast.why_not()
    with pytest.raises(ConfigError, match="choose compatible"):
        fast.refuse()


def test_with_a_gpu_the_reason_is_that_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fast, "ENVIRONMENT", tmp_path)
    assert "make unsloth" in fast.why_not()
    (tmp_path / "lib/python3.11/site-packages/unsloth").mkdir(parents=True)
    (tmp_path / "lib/python3.11/site-packages/unsloth/__init__.py").touch()
    assert fast.why_not() == ""


def test_its_process_never_trains_on_a_cpu(tiny_llama: Path) -> None:
    run = create_run(config_for(tiny_llama, mode="fast"))
    outcome = train_run(run, RowList(), None, None, FastFineTuneJob)
    assert outcome.status == "failed"
    assert "needs an NVIDIA GPU" in (outcome.error or "")
    assert "unsloth" not in sys.modules


def test_it_is_started_in_its_own_environment(tiny_llama: Path) -> None:
    run = create_run(config_for(tiny_llama))
    assert fast.command(run)[0].endswith(".venv-unsloth/bin/python")
    assert fast.command(run)[-1] == run.run_id
