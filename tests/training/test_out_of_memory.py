"""Running out of memory for real: in a child process whose address space is limited in the middle of the work."""

import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from lab.config import PretrainConfig, build_pretrain, changed
from lab.forecast.tracked import TrackedStep
from lab.models.checkpoints import checkpoints_in
from lab.rundir import RunDir, create_run
from lab.store import Database, adopt, events, ingest
from lab.training.memory import Foreseen, MemoryWatch, is_out_of_memory, phase_of
from lab.training.run import train_run
from tests.training.helpers import RowList

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be, that is the question. " * 200)
    return path


def config_of(text: Path) -> PretrainConfig:
    """Many weights and few activations: 7.1 million parameters to a layer, three of them."""
    return build_pretrain(
        {
            "corpus": str(text), "tokenizer": "char", "emb_dim": 768, "n_heads": 4, "n_layers": 3, "context_length": 16,
            "batch_size": 2, "max_steps": 3, "eval_tokens": 64, "sample_tokens": 0, "precision": "fp32", "threads": 1,
            "device": "cpu", "drop_rate": 0.0,
        }
    )  # fmt: skip


def starve(run: RunDir, phase: str) -> dict[str, object]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.starved", phase, run.run_id],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("phase", ["forward", "backward", "update"])
def test_out_of_memory_names_its_phase_keeps_the_last_state_and_says_what_would_fit(
    lab_home: Path, text: Path, phase: str
) -> None:
    run = create_run(changed(config_of(text), batch_size=256 if phase == "forward" else 2))
    ended = starve(run, phase)
    assert ended["status"] == "failed"
    assert f"Out of memory in the {phase} of step 1." in str(ended["error"])
    assert "The final checkpoint holds the weights of step 0." in str(ended["error"])
    (final,) = [info for info in checkpoints_in(run.checkpoints) if info.kind == "final"]
    assert final.step == 0
    found = run.info()["out_of_memory"]
    assert found["phase"] == phase
    if phase == "backward":  # 40 MiB beyond its weights: nothing can be changed that makes room for their gradients
        assert found["advice"] == []
        assert "Take a smaller batch, context or model." in str(ended["error"])
    else:  # where the optimizer's state is what is too large, only one setting makes it smaller
        assert len(found["advice"]) == {"forward": 3, "update": 1}[phase]
    for one in found["advice"]:
        assert changed(run.config(), **one["changes"]) != run.config()
    with Database.open() as database:
        adopt(database, run)
        ingest(database, run)
        happened = events(database, run.run_id)
    kinds = happened["kind"].tolist()
    assert kinds.index("out_of_memory") < kinds.index("failed")
    message = happened["message"][kinds.index("out_of_memory")]
    assert message.startswith(f"Out of memory in the {phase} of step 1.")
    assert all(one["sentence"] in message for one in found["advice"])


def test_out_of_memory_in_the_first_evaluation_leaves_no_state_and_says_so(lab_home: Path, text: Path) -> None:
    run = create_run(changed(config_of(text), eval_tokens=4096))
    ended = starve(run, "evaluation")
    assert "Out of memory in the evaluation" in str(ended["error"])
    assert "There is no state to go on from." in str(ended["error"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1099511627776 bytes."
        ),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    ],
)
def test_every_allocator_is_understood(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_what_the_real_cpu_allocator_says_is_understood() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_an_evaluation_is_no_forward_pass_though_it_has_one_inside() -> None:
    def loss_sum() -> None:
        raise MemoryError

    def evaluate() -> None:
        loss_sum()

    for call, phase in ((loss_sum, "forward"), (evaluate, "evaluation")):
        with pytest.raises(MemoryError) as raised:
            call()
        assert phase_of(raised.value.__traceback__) == phase


def test_the_highest_memory_is_seen_also_when_it_is_given_back_at_once() -> None:
    watch = MemoryWatch(torch.device("cpu"))
    torch.ones(64 * 2**20, dtype=torch.uint8)  # gone again
    peak = watch.peak_bytes()
    assert peak is not None
    assert 60 * 2**20 < peak < 80 * 2**20


class Worried:
    """An adviser that warns."""

    def foresee(self, config: PretrainConfig) -> Foreseen:
        return Foreseen(3 * 2**30, "This run needs about 3 GiB, and 1 GiB are free now.")

    def out_of_memory(self, config: PretrainConfig, limit_bytes: int) -> list[object]:
        return []

    def follow(self, trainer: object) -> AbstractContextManager[TrackedStep]:
        return nullcontext(TrackedStep())


def test_the_forecast_is_recorded_before_the_first_step_and_a_warning_is_an_event(lab_home: Path, text: Path) -> None:
    config = changed(config_of(text), emb_dim=16, max_steps=1)
    run, rows = create_run(config), RowList()
    outcome = train_run(run, rows, None, Worried())  # type: ignore[arg-type]
    assert outcome.status == "finished"
    (prediction,) = rows.tables["predictions"]
    assert prediction["metric"] == "system/memory_gib"
    assert prediction["predicted"] == 3.0
    assert prediction["who"] == "forecast"
    assert [row["message"] for row in rows.tables["events"] if row["level"] == "warning"] == [
        "This run needs about 3 GiB, and 1 GiB are free now."
    ]
    assert run.info()["memory"]["measured_bytes"] == round(outcome.outcomes["system/memory_gib"] * 2**30)
