"""The settings of runs as flat names and values, for comparing them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lab.config import flat, from_json
from lab.config.stored import ABSENT_MEANS, CONFIG_VERSION
from lab.errors import ConfigError
from lab.store.source import Source, cursor_of

INERT = frozenset(
    {
        "device", "attention_impl", "gradient_checkpointing", "threads",  # how the same numbers are computed
        "eval_every", "sample_prompts", "sample_tokens", "checkpoint_every", "keep_last",  # looking and keeping
    }
)  # fmt: skip
"""Settings that change speed, memory or what is looked at, but not what is learned."""

ORIGIN = "began_from"
"""Stands beside a fork's settings: the state that it went on from, `run@step`. A run from random weights has none."""

Settings = dict[str, Any]


def flat_settings(config: Mapping[str, Any]) -> Settings:
    """A stored config of any kind as leaf name -> value, with what an older one leaves out filled in."""
    if config.get("config_version") != CONFIG_VERSION:
        try:
            return flat(from_json(config))
        except ConfigError:
            pass  # of another kind or from a newer lab: shown as it stands
    found: Settings = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found.update(value)
        elif name not in ("kind", "config_version"):
            found[name] = value
    absent = ABSENT_MEANS if config.get("kind") == "pretrain" else {}
    return {**found, **{name: value for name, value in absent.items() if name not in found}}


def settings_of(source: Source, run_ids: Sequence[str] | None = None) -> dict[str, Settings]:
    """run_id -> settings, and ORIGIN for a fork; of these runs or of every run that has a config and is not deleted."""
    columns = "SELECT run_id, config, parent_run_id, parent_step FROM runs"
    with cursor_of(source) as cursor:
        if run_ids is None:
            sql = f"{columns} WHERE config IS NOT NULL AND deleted_at IS NULL ORDER BY created_at"
            rows = cursor.execute(sql).fetchall()
        else:
            sql = f"{columns} WHERE list_contains(?, run_id)"
            found = {row[0]: row for row in cursor.execute(sql, [list(run_ids)]).fetchall()}
            rows = [found[run_id] for run_id in run_ids if run_id in found]
    settings = {}
    for run_id, config, parent, step in rows:
        settings[run_id] = flat_settings(json.loads(config or "{}"))
        if parent is not None:
            settings[run_id][ORIGIN] = f"{parent}@{step}"
    return settings


def origin_of(settings: Settings) -> tuple[str, int] | None:
    """The run and the step that a fork went on from; None for a run from random weights."""
    if settings.get(ORIGIN) is None:
        return None
    parent, _, step = str(settings[ORIGIN]).rpartition("@")
    return parent, int(step)


def differing(left: Settings, right: Settings) -> list[str]:
    """The names in which two runs differ, in the config's order."""
    return [name for name in dict.fromkeys((*left, *right)) if left.get(name) != right.get(name)]


def fingerprint(settings: Settings, without: frozenset[str] = frozenset()) -> str:
    """The same text for the same settings, leaving out some. 1 and 1.0 are the same, as they are when compared."""
    kept = [(name, _plain(value)) for name, value in settings.items() if name not in without and value is not None]
    return repr(sorted(kept))


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
