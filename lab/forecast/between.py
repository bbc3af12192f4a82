"""A knob's value between others that were replayed: memory as a polynomial in it.

The size of every tensor of a step is a product of the model's measures, of which each stands there twice at most (width
× width in a matrix, context × context in attention). So the memory at any moment is a parabola in each of them, and
three values that were replayed tell all others, as long as the same things happen in the same order.
"""

from collections.abc import Sequence

import numpy as np

from lab.config import PretrainConfig
from lab.forecast.timeline import Stretch, Timeline, highest_of, joined, runs

KNOBS = ("emb_dim", "context_length", "n_heads")
"""Of the model; memory is a parabola in each."""
ENOUGH = 3
"""Values that tell all others."""
_MOST = 4_096


class Values:
    """Which values of each knob were replayed, all else being equal but the batch: see `linear_in_batch`."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], set[int]] = {}

    def add(self, config: PretrainConfig, *about: object) -> None:
        """Note that this config was replayed, for the purpose that `about` names."""
        if len(self._seen) > _MOST:
            self.clear()  # nothing is lost but speed
        for knob in KNOBS:
            self._seen.setdefault((*about, knob, _with(config, knob, 0)), set()).add(getattr(config.model, knob))

    def clear(self) -> None:
        self._seen.clear()

    def near(self, config: PretrainConfig, knob: str, *about: object) -> list[int]:
        """Other values of this knob that were replayed, the nearest first."""
        value = getattr(config.model, knob)
        known = tuple(self._seen.get((*about, knob, _with(config, knob, 0)), ()))
        return sorted((one for one in known if one != value), key=lambda one: max(one / value, value / one))


def through(points: Sequence[tuple[int, Timeline]], value: int) -> Timeline | None:
    """The timeline at `value` of a knob, by the parabola through three others.

    Args:
        points: (value, timeline).

    Returns:
        None where other things happen at one value than at another.
    """
    places = [value for value, _ in points]
    shares = [
        float(np.prod([(value - other) / (one - other) for other in places if other != one])) for one in places
    ]  # Lagrange: 1 at its own value, 0 at the others
    found: list[Stretch] = []
    all_runs = [[stretch for run in runs(timeline) for stretch in run] for _, timeline in points]
    if len({len(stretches) for stretches in all_runs}) > 1:
        return None
    for alike in zip(*all_runs, strict=True):
        if len({(one.phase, one.micro_batch, one.layer) for one in alike}) > 1:
            return None
        if len({len(one.places) for one in alike}) > 1:
            alike = tuple(map(highest_of, alike))
        live = sum(share * one.live for share, one in zip(shares, alike, strict=True))
        found.append(alike[0].holding(np.rint(live).astype(np.int64)))
    return joined(found)


def _with(config: PretrainConfig, knob: str, value: int) -> PretrainConfig:
    """The config with this value of the knob, in batches of one."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={knob: value}),
            "train": config.train.model_copy(update={"batch_size": 1}),
        }
    )
