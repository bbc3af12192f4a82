"""Where an opened model stands: on the GPU if a training has left room, else on the CPU, else nowhere, with figures."""

import threading
from pathlib import Path

import pytest
import torch

from lab import rundir
from lab.config import build_pretrain
from lab.errors import ModelError
from lab.models import pretrained
from lab.models.pretrained import Footprint
from lab.models.shapes import Precision
from lab.sessions import Shelf, open_session, placing
from lab.sessions.placing import GPU_SHARE, Place, choose_place
from tests.tiny_models import saved, tiny

GIB = 2**30
NEEDED: dict[Precision, int] = {"fp32": 28 * GIB, "bf16": 14 * GIB, "8bit": 8 * GIB, "4bit": 5 * GIB}
"""A model of seven billion parameters."""


def rooms(gpu: float, cpu: float) -> list[tuple[str, Footprint]]:
    """What a GPU and the machine have left, in GiB."""
    return [
        ("cuda", Footprint(7 * 10**9, NEEDED, int(gpu * GIB), "the GPU's memory")),
        ("cpu", Footprint(7 * 10**9, NEEDED, int(cpu * GIB), "this machine's memory")),
    ]


@pytest.mark.parametrize(
    ("gpu", "cpu", "precision", "place"),
    [
        (80, 64, "auto", Place("cuda", "bf16", 14 * GIB)),  # nothing trains: all of the GPU
        (15, 64, "auto", Place("cpu", "bf16", 14 * GIB)),  # a training has left 15 GiB; 10 % of them stay its own
        (16, 64, "bf16", Place("cuda", "bf16", 14 * GIB)),
        (16, 64, "fp32", Place("cpu", "fp32", 28 * GIB)),
        (6, 12, "auto", Place("cuda", "4bit", 5 * GIB)),  # bf16 fits nowhere, 4 bits fit where it is fast
        (1, 12, "auto", Place("cpu", "8bit", 8 * GIB)),
        (1, 12, "4bit", Place("cpu", "4bit", 5 * GIB)),
    ],
)
def test_what_the_device_has_left_comes_first_then_the_cpu(
    gpu: float, cpu: float, precision: Precision, place: Place
) -> None:
    assert choose_place(rooms(gpu, cpu), "qwen", precision) == place


def test_a_model_that_fits_nowhere_is_refused_with_the_figures_of_both(lab_home: Path) -> None:
    with pytest.raises(ModelError) as refused:
        choose_place(rooms(3, 9), "qwen", "bf16")
    said = str(refused.value)
    assert f"needs 14.0 GiB in bf16, but {3 * GPU_SHARE:.1f} GiB of the GPU's memory are free" in said
    assert "9.0 GiB of this machine's memory are free. Open it in 8bit, which takes 8.0 GiB" in said
    assert "is training" not in said


def test_a_refusal_names_the_run_that_keeps_the_memory(lab_home: Path) -> None:
    run = rundir.create_run(build_pretrain({}, {}))
    with run.lock(), pytest.raises(ModelError, match=rf"Run {run.run_id} is training and keeps its memory"):
        choose_place(rooms(3, 4), "qwen", "auto")


@pytest.fixture
def crowded_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A GPU that a training fills but for some bytes, which a test may change; the machine's memory has room."""
    left = {"cuda": 10, "cpu": 64 * GIB}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pretrained, "available", lambda device: (left[device.type], f"the {device.type}'s memory"))
    return left


def test_beside_a_training_that_fills_the_gpu_a_session_opens_on_the_cpu(
    crowded_gpu: dict[str, int], tmp_path: Path
) -> None:
    session = open_session(str(saved(tiny("llama"), tmp_path / "llama")))
    assert next(session.model.parameters()).device.type == "cpu"
    assert session.precision == "fp32"


def test_beside_a_training_that_fills_everything_a_session_is_refused(
    crowded_gpu: dict[str, int], tmp_path: Path, lab_home: Path
) -> None:
    crowded_gpu["cpu"] = 20
    folder = str(saved(tiny("llama"), tmp_path / "llama"))
    with pytest.raises(ModelError, match=r"of the cuda's memory are free\. .* of the cpu's memory are free\."):
        Shelf().get(folder)


def test_models_on_the_shelf_make_room_before_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened models go; what a training holds is not on the shelf, and counts as taken."""
    first, second = (str(saved(tiny(name), tmp_path / name)) for name in ("llama", "qwen2"))
    shelf = Shelf()
    shelf.get(first)
    needed = pretrained.footprint(Path(second)).needed["4bit"]

    def available(device: torch.device) -> tuple[int, str]:
        return (10 if shelf.loaded() else 100 * needed), "this machine's memory"

    monkeypatch.setattr(pretrained, "available", available)
    session = shelf.get(second)
    assert shelf.loaded() == [session]


def test_a_training_that_begins_on_a_device_finds_no_idle_model_there(tmp_path: Path) -> None:
    shelf = Shelf()
    folders = [str(saved(tiny(name), tmp_path / name)) for name in ("llama", "qwen2")]
    held, _ = (shelf.get(folder) for folder in folders)
    shelf.leave("cuda")
    assert len(shelf.loaded()) == 2, "these stand in the computer's memory"
    asked, left = threading.Event(), threading.Event()

    def ask() -> None:
        with held.lock:
            asked.set()
            left.wait(10)

    asking = threading.Thread(target=ask)
    asking.start()
    asked.wait(10)
    shelf.leave("cpu")
    left.set()
    asking.join()
    assert shelf.loaded() == [held], "one that is being asked stays"


def test_loading_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    open_session(str(saved(tiny("llama"), tmp_path / "llama")), tell=lambda *what: told.append(what))
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert {total for _, _, total in told} == {len(told)}
    assert len(told) > 20, "one for each tensor"


def test_two_devices_are_asked_only_where_there_is_a_gpu() -> None:
    assert placing.devices() == (["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"])
    assert placing.devices("cpu") == ["cpu"]
