"""Where an opened model stands, and in which precision: the GPU as far as it has room left, else the CPU.

What is left is asked when a model is opened. A training that runs has taken its share by then and keeps it: nothing
here ever makes room by touching it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lab.errors import ModelError
from lab.models.pretrained import Footprint, footprint
from lab.models.shapes import Precision
from lab.rundir import all_runs

Choice = Precision | Literal["auto"]

_FP32_LIMIT = 4 << 30  # bytes up to which "auto" takes fp32: exact, and not slower where a model is small
GPU_SHARE = 0.9
"""Of what a GPU has left, that a model may take: a training's need swings from step to step."""


@dataclass(frozen=True)
class Place:
    """The answer: on which device, in which precision, and how many bytes that takes."""

    device: str
    precision: Precision
    needed: int


def devices(device: str = "auto") -> list[str]:
    """Where a model may stand, the best first."""
    if device != "auto":
        return [device]
    return ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]


def find_place(folder: Path, name: str, precision: Choice = "auto", device: str = "auto") -> Place:
    """Where a folder's model fits.

    Raises:
        ModelError: nowhere; the sentence has the figures, and what would fit.
    """
    return choose_place([(where, footprint(folder, where)) for where in devices(device)], name, precision)


def choose_place(found: Sequence[tuple[str, Footprint]], name: str, precision: Choice) -> Place:
    """The first device on which the model fits; with "auto" one where it need not be squeezed into fewer bits comes
    before one where it must.

    Args:
        found: what the model takes and what there is, by device, the best first.

    Raises:
        ModelError: it fits nowhere.
    """
    rooms = [(where, _cautious(where, one)) for where, one in found]
    good: Callable[[Footprint], list[Precision]]
    for good in (_unsqueezed, lambda one: one.fitting):
        for where, one in rooms:
            fitting = good(one) if precision == "auto" else [p for p in one.fitting if p == precision]
            if fitting:
                return Place(where, fitting[0], one.needed[fitting[0]])
    wanted: Precision = "4bit" if precision == "auto" else precision
    said = " ".join(one.refusal(name, wanted) for _, one in rooms)
    raise ModelError(said + _who_trains())


def _cautious(where: str, one: Footprint) -> Footprint:
    if where == "cpu":
        return one
    return Footprint(one.parameters, one.needed, int(GPU_SHARE * one.available), one.place)


def _unsqueezed(one: Footprint) -> list[Precision]:
    """fp32 where the model is small, else bf16; nothing where it must go into fewer bits."""
    fitting: list[Precision] = [p for p in one.fitting if p in ("fp32", "bf16")]
    if "bf16" in fitting and one.needed["fp32"] > _FP32_LIMIT:
        return ["bf16"]
    return fitting


def _who_trains() -> str:
    """The runs that hold memory now, for a refusal."""
    names = [f"{run.run_id}" for run in all_runs() if run.is_alive()]
    if not names:
        return ""
    return f" Run {', '.join(names)} is training and keeps its memory; stop it, or wait for its end."
