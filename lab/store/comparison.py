"""Runs side by side: which settings differ, and which run is missing to say which of them made the difference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lab.config import RunConfig, changed, from_json
from lab.errors import ConfigError, StoreError
from lab.store.queries import checkpoints, run_row
from lab.store.settings import INERT, ORIGIN, Settings, differing, fingerprint, origin_of, settings_of
from lab.store.source import Source, cursor_of

if TYPE_CHECKING:
    import pandas

MOST = 20  # runs beside each other that a person can still take in


def config_diff(source: Source, run_ids: Sequence[str], *, only_differences: bool = True) -> "pandas.DataFrame":
    """Settings of 2 to 20 runs: one row per setting, one column per run id, in the order given.

    Returns:
        Index: the setting. A run that does not know a setting has None there. `attrs`: same (how many settings all
        runs share), inert (those shown that change speed or looks, not what is learned).

    Raises:
        StoreError: fewer than 2 or more than 20 runs, or one that the record does not know.
    """
    import pandas

    settings = _chosen(source, run_ids)
    names = list(dict.fromkeys(name for one in settings.values() for name in one))
    differ = [
        name for name in names if any(one.get(name) != settings[run_ids[0]].get(name) for one in settings.values())
    ]
    shown = differ if only_differences else names
    columns = {run_id: [settings[run_id].get(name) for name in shown] for run_id in run_ids}
    frame = pandas.DataFrame(columns, index=pandas.Index(shown, name="setting"), dtype=object)
    frame.attrs = {"same": len(names) - len(differ), "inert": [name for name in shown if name in INERT]}
    return frame


@dataclass(frozen=True)
class Neighbour:
    """The run that shows what one setting alone does: like `of`, with the other run's value of `setting`."""

    setting: str
    of: str
    """The run id that it is like in everything else."""
    value: Any
    run_ids: tuple[str, ...]
    """Runs that are just that; empty: none has been trained yet."""
    config: RunConfig | None
    """What to queue where it is missing; None where it cannot be trained."""
    parent: tuple[str, int] | None
    """Run and step that a missing one has to be forked from; None: it begins from random weights."""
    problem: str
    """Why it cannot be trained, in one sentence; empty where it can."""


@dataclass(frozen=True)
class Contrast:
    """Two runs, and what stands between them."""

    left: str
    right: str
    differences: dict[str, tuple[Any, Any]]
    """Setting -> value of the left and of the right run; those that cannot change what is learned come last. Where
    they began stands there under ORIGIN: a fork is another run than a fresh one, also with the same settings."""
    inert: tuple[str, ...]
    """Settings among them that change speed, memory or looks only."""
    neighbours: tuple[Neighbour, ...]
    """For each setting that matters, both controlled runs; empty when only one differs: then these two are it."""

    @property
    def is_controlled(self) -> bool:
        """Whether the two runs themselves differ in one setting that matters, or none."""
        return len(self.differences) - len(self.inert) <= 1

    @property
    def missing(self) -> tuple[Neighbour, ...]:
        return tuple(one for one in self.neighbours if not one.run_ids)


def contrast(source: Source, left: str, right: str) -> Contrast:
    """Why do these two runs differ? The settings that differ, and the controlled runs there are and are not.

    Raises:
        StoreError: the record does not know one of them.
    """
    with cursor_of(source) as cursor:
        chosen = _chosen(cursor, [left, right])
        everyone = settings_of(cursor)
        configs = {run_id: run_row(cursor, run_id)["config"] for run_id in (left, right)}
        parents = {origin[0] for run_id in (left, right) if (origin := origin_of(chosen[run_id]))}
        states = {(parent, int(step)) for parent in parents for step in checkpoints(cursor, parent)["step"]}
    names = differing(chosen[left], chosen[right])
    matter = [name for name in names if name not in INERT]
    inert = [name for name in names if name in INERT]
    neighbours = []
    if len(matter) > 1:
        alike: dict[str, list[str]] = {}
        for run_id, settings in everyone.items():
            alike.setdefault(fingerprint(settings, INERT), []).append(run_id)
        for name in matter:
            for base, other in ((left, right), (right, left)):
                wanted = {**chosen[base], name: chosen[other].get(name)}
                found = tuple(alike.get(fingerprint(wanted, INERT), ()))
                neighbour = Neighbour(name, base, wanted[name], found, None, origin_of(wanted), "")
                neighbours.append(neighbour if found else _to_queue(neighbour, configs[base], states))
    return Contrast(
        left,
        right,
        {name: (chosen[left].get(name), chosen[right].get(name)) for name in (*matter, *inert)},
        tuple(inert),
        tuple(neighbours),
    )


def _to_queue(missing: Neighbour, base: dict[str, Any] | None, states: Collection[tuple[str, int]]) -> Neighbour:
    if missing.parent is not None and missing.parent not in states:
        parent, step = missing.parent
        return replace(missing, problem=f"The state of step {step:,} of run {parent} is not kept any more.")
    values = {} if missing.setting == ORIGIN else {missing.setting: missing.value}
    try:
        config = changed(from_json(base or {}), **values)
    except ConfigError as error:
        return replace(missing, problem=str(error))
    return replace(missing, config=config)


def _chosen(source: Source, run_ids: Sequence[str]) -> dict[str, Settings]:
    if not 2 <= len(set(run_ids)) == len(run_ids) <= MOST:
        raise StoreError(f"Choose 2 to {MOST} different runs to compare, not {len(run_ids)}.")
    found = settings_of(source, run_ids)
    if strangers := [run_id for run_id in run_ids if run_id not in found]:
        raise StoreError(f"The record knows no run {', '.join(strangers)}; `lab runs list` shows the runs there are.")
    return found
