"""Is a difference larger than luck? Runs that differ in nothing but their seed show how large luck is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.store.run_search import VALUES, Value
from lab.store.settings import INERT, ORIGIN, Settings, fingerprint, origin_of, settings_of
from lab.store.source import Source, cursor_of

if TYPE_CHECKING:
    import pandas

_ASIDE = INERT | {"seed"}
# Two-sided 95 % quantiles of Student's t for 1, 2, 3 … degrees of freedom; beyond 30 the normal one is close enough.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """What the same settings came to under different seeds."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / self.n

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1); None for a single run."""
        if self.n < 2:
            return None
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (self.n - 1))


def seed_groups(source: Source, run_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each of these runs, all runs of the record with the same settings under any seed, itself among them.

    A fork's group began at the same step of parents that are of one group themselves.
    """
    with cursor_of(source) as cursor:
        everyone = settings_of(cursor)
        chosen = settings_of(cursor, run_ids)
    known = {**everyone, **chosen}
    groups: dict[str, list[str]] = {}
    for run_id, settings in known.items():
        groups.setdefault(_family(settings, known), []).append(run_id)
    return {run_id: tuple(groups[_family(chosen[run_id], known)]) for run_id in chosen}


def _family(settings: Settings, known: Mapping[str, Settings]) -> str:
    """The same text for runs that differ in luck only: settings, and for a fork those of all its ancestors."""
    texts: list[str] = []
    seen: set[str] = set()
    while True:
        origin = origin_of(settings)
        if origin is None or origin[0] not in known or origin[0] in seen:
            return "\n".join([*texts, fingerprint(settings, _ASIDE)])
        parent, step = origin
        seen.add(parent)
        texts.append(f"{step} {fingerprint({**settings, ORIGIN: None}, _ASIDE)}")
        settings = known[parent]


def seed_spread(
    source: Source, run_ids: Sequence[str], metric: str = "val/loss", value: Value = "last"
) -> "pandas.DataFrame":
    """A table of final figures that says which differences are within seed noise.

    Each run is judged against the best of those chosen. With two or more seeds on both sides that is Welch's test at
    95 %; with them on one side, whether the single run falls into the 95 % range for one more run of that side; with
    single runs on both sides nothing can be said. Runs without the value are left out.

    Returns:
        One row per run, best first: run_id, value, n (seeds with these settings in the record), mean, sd, verdict
        ("best", "another seed of the best, n = 3", "within seed noise, n = 3", "beyond seed noise, n = 3 and 2",
        "unknown: one seed each"). `attrs`: better ("lower" or "higher").
    """
    import pandas

    if value not in VALUES:
        raise ValueError(f"value is {value!r}, but must be one of {', '.join(VALUES)}.")
    with cursor_of(source) as cursor:
        groups = seed_groups(cursor, run_ids)
        everyone = list({member for group in groups.values() for member in group})
        sql = f"""
            SELECT run_id, {VALUES[value]} FROM metric_totals
            WHERE name = ? AND list_contains(?, run_id) AND isfinite({VALUES[value]})
        """
        values = dict(cursor.execute(sql, [metric, everyone]).fetchall())
        info = cursor.execute("SELECT better FROM metric_info WHERE name = ?", [metric]).fetchone()
    higher = info == ("higher",)
    spreads = {
        run_id: Spread(tuple(values[member] for member in group if member in values))
        for run_id, group in groups.items()
        if run_id in values
    }
    ranked = sorted(spreads, key=lambda run_id: -values[run_id] if higher else values[run_id])
    rows = []
    for run_id in ranked:
        own, best = spreads[run_id], spreads[ranked[0]]
        if run_id == ranked[0]:
            verdict = "best"
        elif groups[run_id] == groups[ranked[0]]:
            verdict = f"another seed of the best, n = {own.n}"
        else:
            verdict = _verdict(own, best)
        rows.append((run_id, values[run_id], own.n, own.mean, own.sd, verdict))
    frame = pandas.DataFrame(rows, columns=["run_id", "value", "n", "mean", "sd", "verdict"])
    frame.attrs = {"better": "higher" if higher else "lower"}
    return frame


def _verdict(one: Spread, other: Spread) -> str:
    within = within_noise(one, other)
    if within is None:
        return "unknown: one seed each"
    n = f"n = {one.n}" if one.n == other.n else f"n = {one.n} and {other.n}"
    return f"within seed noise, {n}" if within else f"beyond seed noise, {n}"


def within_noise(one: Spread, other: Spread) -> bool | None:
    """Whether two spreads may have the same mean at 95 %; None where neither side has two seeds."""
    difference = abs(one.mean - other.mean)
    if one.sd is not None and other.sd is not None:  # Welch
        a, b = one.sd**2 / one.n, other.sd**2 / other.n
        if a + b == 0:
            return difference == 0
        freedom = (a + b) ** 2 / (a**2 / (one.n - 1) + b**2 / (other.n - 1))
        return difference <= t95(freedom) * math.sqrt(a + b)
    several = one if one.sd is not None else other
    if several.sd is None:
        return None
    return difference <= t95(several.n - 1) * several.sd * math.sqrt(1 + 1 / several.n)


def t95(freedom: float) -> float:
    """Student's t that 95 % stay within; between whole degrees of freedom the more careful, larger one."""
    whole = max(1, math.floor(freedom))
    return _T95[whole - 1] if whole <= len(_T95) else 1.96 + 2.5 / whole
