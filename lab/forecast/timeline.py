"""From a log of storages to the memory curve of a step, and from a model of two and three layers to one of any depth.

The layers of a model are alike, so each adds the same: between two and three layers every moment of the step differs by
exactly one layer's worth. A replay of three layers takes a tenth of a second, one of 96 would take seconds, and both
give the same number.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from lab.forecast.kinds import KINDS
from lab.forecast.storages import Log, Place, Storage

Bytes = NDArray[np.int64]
"""[moment, kind]"""

_TEMPORARY = KINDS.index("temporary")
SHALLOW, DEEP = 2, 3
"""The two depths that are replayed for a deeper model: the least that has a first, a middle and a last layer."""


@dataclass(frozen=True)
class Timeline:
    """Live memory after each operation of one step, in order."""

    places: list[Place]
    live: Bytes
    """[moment, kind], bytes; a column for each of KINDS."""

    @property
    def total(self) -> NDArray[np.int64]:
        """[moment], bytes."""
        return self.live.sum(axis=1)

    @property
    def peak(self) -> int:
        """Number of the moment with the most memory; the first of equals. The copy for a checkpoint is apart from the
        step: it happens once in many."""
        in_step = np.array([place.phase != "checkpoint" for place in self.places])
        return int(np.where(in_step, self.total, 0).argmax())

    @property
    def peak_bytes(self) -> int:
        return int(self.total[self.peak])


def timeline(log: Log) -> Timeline:
    """The curve of a step that starts with the optimizer's state already there.

    A replay takes the very first step, in which that state is only made at the end. In all later steps it is there from
    the start and nothing else is different, so it is counted from the start; set-up (the weights) is left out.
    """
    for storage in log.storages:
        if storage.kind in ("optimizer", "weights", "adapters", "quantisation_state"):
            storage.birth = 0
    ends_of_forward = _ends_of_forward(log.places)
    changes = np.zeros((len(log.places) + 1, len(KINDS)), dtype=np.int64)
    for storage in log.storages:
        kind = KINDS.index(storage.kind or _kind(storage, log, ends_of_forward))
        changes[storage.birth, kind] += storage.bytes
        if storage.death is not None:
            changes[storage.death + 1, kind] -= storage.bytes
    live = changes.cumsum(axis=0)[:-1]
    live[:, _TEMPORARY] += log.workspaces
    step = [number for number, place in enumerate(log.places) if place.phase != "set-up"]
    return Timeline([log.places[number] for number in step], live[step])


def _ends_of_forward(places: list[Place]) -> dict[int, int]:
    """micro-batch -> number of its last forward operation."""
    return {place.micro_batch: number for number, place in enumerate(places) if place.phase == "forward"}


def _kind(storage: Storage, log: Log, ends_of_forward: dict[int, int]) -> str:
    """What the life of a storage tells about it."""
    place = log.places[storage.birth]
    if place.phase == "forward":
        outlives = storage.death is None or storage.death > ends_of_forward[place.micro_batch]
        if outlives and place.module == "" and storage.shape in log.trained_matrices:
            return "gradients"  # the loss computes the output layer's gradient while it has the logits
        return "activations" if outlives else "temporary"
    return "activations" if storage.is_recomputed else "temporary"


# -- depth ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch:
    """Neighbouring moments that belong to the same layer of the same phase, or to none."""

    phase: str
    micro_batch: int
    layer: int | None
    places: list[Place]
    live: Bytes

    def holding(self, live: Bytes) -> "Stretch":
        """The same moments with other memory."""
        return replace(self, live=live)


def deepen(shallow: Timeline, deep: Timeline, n_layers: int) -> Timeline:
    """The timeline of a model of `n_layers` from those of SHALLOW and DEEP layers.

    With f(L, i) for the memory in layer i of L, all layers alike: one more layer in the model adds
    f(3, 0) - f(2, 0) everywhere, and standing one layer further adds f(3, 2) - f(3, 1).
    """
    if n_layers <= DEEP:
        raise ValueError(f"{n_layers} layers are replayed, not extrapolated")
    stretches: list[Stretch] = []
    for runs_2, runs_3 in zip(runs(shallow), runs(deep), strict=True):
        if runs_2[0].layer is None:
            stretches.append(_shift(runs_2[0], runs_3[0], n_layers))
            continue
        two, three = ({run.layer: run for run in runs} for runs in (runs_2, runs_3))
        order = range(n_layers) if runs_3[0].layer == 0 else reversed(range(n_layers))
        stretches.extend(_layer_at(two, three, layer, n_layers) for layer in order)
    return joined(stretches)


def linear_in_batch(
    one: Timeline, size_1: int, two: Timeline, size_2: int, size: int, *, loss_in_chunks: bool
) -> Timeline:
    """The timeline at batch size `size` from those of two others: each moment grows in proportion to the batch.

    Args:
        loss_in_chunks: the last chunk of the loss is a part of one, of any size: only the highest moment outside of
            the layers, which lies in a whole chunk, is in proportion.
    """
    stretches: list[Stretch] = []
    for runs_1, runs_2 in zip(runs(one), runs(two), strict=True):
        for run_1, run_2 in zip(runs_1, runs_2, strict=True):
            if loss_in_chunks and run_1.layer is None:
                run_1, run_2 = highest_of(run_1), highest_of(run_2)
            run_1, run_2 = _alike(run_1, run_2)
            live = run_1.live + (run_2.live - run_1.live) * (size - size_1) // (size_2 - size_1)
            stretches.append(Stretch(run_1.phase, run_1.micro_batch, run_1.layer, run_1.places, live))
    return joined(stretches)


def joined(stretches: list[Stretch]) -> Timeline:
    """One timeline of all these, in their order."""
    return Timeline(
        [place for stretch in stretches for place in stretch.places],
        np.concatenate([stretch.live for stretch in stretches]),
    )


def _layer_at(two: dict[int | None, Stretch], three: dict[int | None, Stretch], layer: int, n_layers: int) -> Stretch:
    if layer == 0:
        return _shift(two[0], three[0], n_layers)
    if layer == n_layers - 1:
        return _shift(two[1], three[2], n_layers, layer)
    middle, last = _alike(three[1], three[2])
    first_2, first_3 = _alike(two[0], three[0])
    per_layer = _rows(first_3.live - first_2.live, len(middle.live))
    further = last.live - middle.live
    live = middle.live + (layer - 1) * further + (n_layers - DEEP) * per_layer
    return Stretch(middle.phase, middle.micro_batch, layer, [_moved(p, layer) for p in middle.places], live)


def _shift(two: Stretch, three: Stretch, n_layers: int, layer: int | None = None) -> Stretch:
    """The same stretch in a deeper model."""
    two, three = _alike(two, three)
    live = three.live + (n_layers - DEEP) * (three.live - two.live)
    places = [_moved(place, layer) for place in three.places] if layer is not None else three.places
    return Stretch(three.phase, three.micro_batch, layer, places, live)


def _alike(one: Stretch, other: Stretch) -> tuple[Stretch, Stretch]:
    """The two stretches moment for moment, or, where they have not the same moments, their highest ones."""
    if len(one.places) == len(other.places):
        return one, other
    return highest_of(one), highest_of(other)


def highest_of(stretch: Stretch) -> Stretch:
    """Its highest moment alone."""
    top = int(stretch.live.sum(axis=1).argmax())
    return Stretch(
        stretch.phase, stretch.micro_batch, stretch.layer, [stretch.places[top]], stretch.live[top : top + 1]
    )


def _rows(change: Bytes, rows: int) -> Bytes:
    return change if len(change) == rows else np.repeat(change[:1], rows, axis=0)


def _moved(place: Place, layer: int) -> Place:
    return Place(place.phase, place.micro_batch, layer, _name_at(place.module, layer), place.site)


@lru_cache(maxsize=65_536)
def _name_at(module: str, layer: int | None) -> str:
    return ".".join(str(layer) if part.isdigit() else part for part in module.split("."))


def runs(timeline: Timeline) -> list[list[Stretch]]:
    """The stretches, those of neighbouring layers of one phase together.

    The update visits every parameter, so its moments grow with the layers: one is kept for each line of code.
    """
    stretches: list[Stretch] = []
    moments = enumerate(timeline.places)
    for (phase, micro_batch, layer), group in groupby(moments, lambda m: (m[1].phase, m[1].micro_batch, m[1].layer)):
        numbers = [number for number, _ in group]
        if phase in ("update", "checkpoint"):
            numbers = _one_per_line(timeline, numbers)
        places = [timeline.places[number] for number in numbers]
        stretches.append(Stretch(phase, micro_batch, layer, places, timeline.live[numbers]))
    return [list(group) for _, group in groupby(stretches, lambda s: (s.phase, s.micro_batch, s.layer is not None))]


def _one_per_line(timeline: Timeline, numbers: list[int]) -> list[int]:
    total = timeline.total
    return [
        max(group, key=lambda number: total[number])
        for _, group in groupby(numbers, lambda number: str(timeline.places[number].site))
    ]
