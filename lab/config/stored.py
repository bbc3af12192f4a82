"""A config as stored JSON, and how an older one is read.

Stored JSON carries `kind` and `config_version`. A change of meaning adds an upgrade function here, numbered
by the version it starts from; it fills in the value that *reproduces the old behaviour*, which need not be
today's default.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from lab.config.build import KINDS, RunConfig, build, flat
from lab.config.knobs import sections
from lab.errors import ConfigError

CONFIG_VERSION = 1

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""version -> function that turns a stored config of that version into one of the next."""

ABSENT_MEANS: dict[str, Any] = {
    # A field that was added without a new version: what a run did before the field existed.
    "attention_drop_rate": 0.0,
    "tf32": False,
    "schedule": "cosine",
    "threads": None,
    "forget_tokens": 1_024,
}


def to_json(config: RunConfig) -> dict[str, Any]:
    """The config as it is stored."""
    return {"config_version": CONFIG_VERSION, **config.model_dump(mode="json")}


def from_json(stored: Mapping[str, Any]) -> RunConfig:
    """Read a stored config of this or an older version.

    Raises:
        ConfigError: unknown kind, a version newer than this lab, unknown keys, or values that cannot work.
    """
    stored = dict(stored)
    version = stored.pop("config_version", None)
    kind = stored.get("kind")
    if kind not in KINDS:
        raise ConfigError([f"A stored config of kind {kind!r} is not one this lab can read."])
    if not isinstance(version, int) or version < 1:
        raise ConfigError([f"The stored config's config_version is {version!r}, but must be a whole number from 1."])
    if version > CONFIG_VERSION:
        raise ConfigError(
            [f"The stored config has version {version}, newer than this lab's {CONFIG_VERSION}: update the lab."]
        )
    for number in range(version, CONFIG_VERSION):
        stored = UPGRADES[number](stored)
    return build(KINDS[kind], _flat_stored(KINDS[kind], stored))


def _flat_stored(config: type[BaseModel], stored: Mapping[str, Any]) -> dict[str, Any]:
    known = sections(config)
    leaves = {leaf for section in known.values() for leaf in section.model_fields}
    strangers = [name for name in stored if name not in known and name != "kind"]
    values: dict[str, Any] = {name: value for name, value in ABSENT_MEANS.items() if name in leaves}
    for name, section in known.items():
        given = stored.get(name, {})
        strangers += [f"{name}.{leaf}" for leaf in given if leaf not in section.model_fields]
        values.update(given)
    if strangers:
        raise ConfigError([f"The stored config has settings this lab does not know: {', '.join(strangers)}."])
    return values


def differences(left: RunConfig, right: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The knobs in which two configs differ: leaf name -> (left, right). None stands for a knob one does not have."""
    a, b = flat(left), flat(right)
    return {name: (a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)}
