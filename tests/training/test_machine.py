"""What `auto` chooses is measured here, said, and remembered."""

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from lab.config import GPTConfig
from lab.errors import ConfigError
from lab.training import machine
from lab.training.attention_kernel import attention_kernel
from lab.training.precision import Precision, resolve_device
from tests.training.helpers import go_on, small, train

CPU = torch.device("cpu")
SHAPE = GPTConfig(vocab_size=11, context_length=8, emb_dim=8, n_layers=1, n_heads=2)


@pytest.fixture(autouse=True)
def _threads_back() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_QUIET_PATIENCE_S", 0.0)


def slow_in(*slow: str):  # type: ignore[no-untyped-def]
    """A step that takes 10 ms in these precisions and 1 ms in the others."""
    import time

    def one_step(precision: Precision) -> None:
        time.sleep(0.01 if precision.name in slow else 0.001)

    return one_step


@pytest.mark.parametrize(("slow", "expected"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_the_faster_precision_is_chosen_and_the_sentence_gives_the_figures(slow: str, expected: str) -> None:
    choice = machine.choose_compute(["fp32", "bf16"], [1], CPU, SHAPE, slow_in(slow))
    assert (choice.precision, choice.threads) == (expected, 1)
    assert "the fastest measured here (fp32 on 1 threads" in choice.reason
    assert " ms, bf16 on 1 threads" in choice.reason


def test_it_is_measured_once_and_remembered() -> None:
    first = machine.choose_compute(["fp32", "bf16"], [1], CPU, SHAPE, slow_in("fp32"))

    def not_again(_: Precision) -> None:
        raise AssertionError("measured a second time")

    assert machine.choose_compute(["fp32", "bf16"], [1], CPU, SHAPE, not_again) == first


def test_another_shape_is_measured_anew() -> None:
    machine.choose_compute(["fp32", "bf16"], [1], CPU, SHAPE, slow_in("fp32"))
    wider = SHAPE.model_copy(update={"emb_dim": 16})
    assert machine.choose_compute(["fp32", "bf16"], [1], CPU, wider, slow_in("bf16")).precision == "fp32"


def test_it_waits_until_what_else_runs_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of all cores in use, looked at each time around a quarter of a second: 2 cores, then a tenth of one."""
    busy = iter([0.0, 0.5, 0.525])
    looked: list[float] = []

    def cpu_times() -> SimpleNamespace:
        looked.append(now := next(busy))
        return SimpleNamespace(user=now, system=0.0, nice=50.0 * len(looked))  # niced work makes way by itself

    monkeypatch.setattr(machine, "_QUIET_PATIENCE_S", 60.0)
    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    machine.choose_compute(["fp32", "bf16"], [1], CPU, SHAPE, slow_in("fp32"))
    assert len(looked) == 3


def test_what_is_set_is_used_without_measuring() -> None:
    def never(_: Precision) -> None:
        raise AssertionError("measured")

    choice = machine.choose_compute(["bf16"], [1], CPU, SHAPE, never)
    assert (choice.precision, choice.threads, choice.reason) == ("bf16", 1, "bf16 on 1 CPU threads, as set")


def test_threads_leave_room_for_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert machine.thread_candidates() == [8, 7]
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert machine.thread_candidates() == [1]


def test_best_matmul_peak_ever_seen_is_remembered_per_precision_and_threads(lab_home: Path) -> None:
    seen = [machine.matmul_peak(Precision("fp32", CPU), 1) for _ in range(5)]
    assert seen == sorted(seen)
    assert seen[0] > 1e6
    machine.matmul_peak(Precision("bf16", CPU), 1)
    remembered = json.loads((lab_home / "outputs/.cache/machine.json").read_text())["matmul"]
    assert len(remembered) == 2
    assert seen[-1] in remembered.values()


def test_what_auto_chose_is_stored_resolved_told_and_kept_on_resume() -> None:
    trained = train(small(precision="auto", threads=None, device="auto", max_steps=2))
    compute = trained.run.config().compute
    assert compute.device in {"cpu", "cuda", "mps"}
    assert compute.precision in {"fp32", "bf16", "fp16"}
    assert compute.threads is not None
    assert any(message.startswith("Computing in ") for message in trained.rows.messages("decision"))
    trained.run.update_info(status="interrupted")
    go_on(trained.run, trained.rows)
    assert trained.run.config().compute == compute


def test_attention_kernel_is_named_with_its_reason() -> None:
    compute = small().compute
    assert attention_kernel(SHAPE, compute, 4, CPU, torch.float32)[0] in {"flash", "math"}
    manual = compute.model_copy(update={"attention_impl": "manual"})
    assert attention_kernel(SHAPE, manual, 4, CPU, torch.float32)[0] == "manual"
    dropped = SHAPE.model_copy(update={"attention_drop_rate": 0.1})
    name, why = attention_kernel(dropped, compute, 4, CPU, torch.float32)
    assert (name, "attention dropout is 0.1" in why) == ("manual", True)


def test_device_that_is_not_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    with pytest.raises(ConfigError, match="device is 'cuda', but this machine has only cpu; choose auto"):
        resolve_device("cuda")


def test_auto_takes_cuda_before_mps_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "mps"
