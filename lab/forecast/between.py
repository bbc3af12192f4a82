"""Values that nobody replayed, from others that were: memory as a polynomial in the knobs.

The size of every tensor of a step is a product of the model's measures: width × width in a matrix, heads × context² in
attention's weights. So the memory at each moment is a sum of a few such terms, and replays at other values, of one knob
or of several at once, tell all others, as long as the same things happen in the same order.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from lab.forecast.timeline import Stretch, Timeline, highest_of, joined, runs

Values = tuple[int, ...]
"""One for each knob."""
Terms = Callable[..., Sequence[float]]
"""The products that sizes are made of, from a value of each knob."""
Parts = list[tuple[float, Timeline]]
_MOST = 4_096
_MOST_POINTS = 16
_TOLERANCE = 1e-6
"""Relative; a size is a whole number of bytes below 2^40 or so, and the shares are exact to 1e-12."""


class Known:
    """Which values were replayed, all else being equal."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, set[Values]] = {}

    def add(self, about: Hashable, values: Values) -> None:
        """Note that this was replayed, for the purpose that `about` names."""
        if len(self._seen) > _MOST:
            self.clear()  # nothing is lost but speed
        self._seen.setdefault(about, set()).add(values)

    def clear(self) -> None:
        self._seen.clear()

    def near(self, about: Hashable, values: Values) -> list[Values]:
        """Others that were replayed: first those that differ in fewest knobs, of these the nearest."""

        def distance(other: Values) -> tuple[int, float]:
            apart = [max(one / two, two / one) for one, two in zip(values, other, strict=True) if one != two]
            return len(apart), float(np.prod(apart))

        return sorted((other for other in self._seen.get(about, ()) if other != values), key=distance)


def between(
    asked: Values, others: Sequence[Values], terms: Terms, timeline_at: Callable[[Values], Timeline | None]
) -> Timeline | None:
    """The timeline at `asked`, put together from others.

    Args:
        others: the best first; of these as few are taken as are enough.
        timeline_at: None where it was not replayed.

    Returns:
        None where the others do not tell.
    """
    taken: list[Values] = []
    found: dict[Values, Timeline] = {}
    for other in others:
        if len(taken) == _MOST_POINTS:
            break
        if (timeline := timeline_at(other)) is None:
            continue
        taken.append(other)
        found[other] = timeline
        shares = shares_of(asked, taken, terms)
        if shares is None:
            continue
        parts = [(share, found[one]) for one, share in zip(taken, shares, strict=True) if abs(share) > _TOLERANCE]
        if (mixed := mixed_of(parts)) is not None:
            return mixed
    return None


def shares_of(asked: Values, others: Sequence[Values], terms: Terms) -> Sequence[float] | None:
    """How much of each of the others makes up `asked`: every term of it is then the same mixture of theirs.

    On a line through three points of one knob these are Lagrange's coefficients of the parabola.
    """
    wanted = np.asarray(terms(*asked), dtype=float)
    known = np.stack([np.asarray(terms(*other), dtype=float) / wanted for other in others], axis=1)
    shares = np.linalg.lstsq(known, np.ones(len(wanted)), rcond=1e-10)[0]
    return None if np.abs(known @ shares - 1).max() > _TOLERANCE else [float(share) for share in shares]


def mixed_of(parts: Parts) -> Timeline | None:
    """The sum of shares of timelines; None where other things happen in one than in another."""
    stretches: list[Stretch] = []
    all_runs = [[stretch for run in runs(timeline) for stretch in run] for _, timeline in parts]
    if len({len(one) for one in all_runs}) > 1:
        return None
    for alike in zip(*all_runs, strict=True):
        if len({(one.phase, one.micro_batch, one.layer) for one in alike}) > 1:
            return None
        if len({len(one.places) for one in alike}) > 1:
            alike = tuple(map(highest_of, alike))
        live = sum(share * one.live for (share, _), one in zip(parts, alike, strict=True))
        stretches.append(alike[0].holding(np.rint(live).astype(np.int64)))
    return joined(stretches)
