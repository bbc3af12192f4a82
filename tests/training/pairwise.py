"""Few configs that together hold every pair of values of any two knobs.

Most faults that need more than one setting need two. All combinations of 30 knobs are more than there are atoms;
all pairs fit into some dozens of runs.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Choice = tuple[str, Any]


def all_pairs(
    values: Mapping[str, Sequence[Any]], is_valid: Callable[[dict[str, Any]], bool], *, seed: int = 0, tries: int = 3
) -> list[dict[str, Any]]:
    """Greedy: each new config starts from a pair that is still missing, and takes, knob by knob in random order, the
    value that brings in most missing pairs with what it has already; of `tries` such configs the best is kept.

    Args:
        values: knob -> the values to combine; the first one is the default.
        is_valid: whether a config can work at all. Pairs that can't, with all else at its default, are left out.
    """
    rng = random.Random(seed)
    default = {name: listed[0] for name, listed in values.items()}
    missing = {
        frozenset({(a, x), (b, y)})
        for a, b in itertools.combinations(values, 2)
        for x in values[a]
        for y in values[b]
        if is_valid({**default, a: x, b: y})
    }
    configs = []
    while missing:
        best: tuple[int, dict[str, Any]] = (0, default)
        for _ in range(tries):
            config = _grown(values, is_valid, missing, default, rng)
            best = max(best, (len(_pairs(config) & missing), config), key=lambda found: found[0])
        if best[0] == 0:
            continue
        configs.append(best[1])
        missing -= _pairs(best[1])
    return configs


def _grown(
    values: Mapping[str, Sequence[Any]],
    is_valid: Callable[[dict[str, Any]], bool],
    missing: set[frozenset[Choice]],
    default: dict[str, Any],
    rng: random.Random,
) -> dict[str, Any]:
    chosen: dict[str, Any] = dict(rng.choice(sorted(missing, key=str)))
    for name in rng.sample(sorted(values), len(values)):
        if name in chosen:
            continue

        def gain(value: Any, name: str = name) -> int:
            return sum(frozenset({(name, value), other}) in missing for other in chosen.items())

        options = sorted(rng.sample(list(values[name]), len(values[name])), key=gain, reverse=True)
        fitting = [value for value in options if is_valid({**default, **chosen, name: value})]
        chosen[name] = fitting[0] if fitting else default[name]
    return chosen if is_valid(chosen) else default


def _pairs(config: dict[str, Any]) -> set[frozenset[Choice]]:
    return {frozenset(pair) for pair in itertools.combinations(config.items(), 2)}
