"""Command line flags made from the config fields, so that a knob is described once and everywhere the same."""

import argparse
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from lab.config import Leaf, leaves


def add_config_flags(parser: argparse.ArgumentParser, *configs: type[BaseModel]) -> None:
    """One flag for each knob, under the headings of the app's form. A knob that several kinds share is described as
    the first of them describes it.

    A flag that is not typed leaves no trace in the namespace (SUPPRESS): the layers below decide. What
    cannot be read as a number stays text: `lab.config` checks all values, so that all mistakes are reported together.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for leaf in _leaves(configs):
        if leaf.level == "derived":
            continue
        if leaf.group not in groups:
            groups[leaf.group] = parser.add_argument_group(leaf.group)
        groups[leaf.group].add_argument(leaf.flag, dest=leaf.name, **_how(leaf))


def given(args: argparse.Namespace, *configs: type[BaseModel]) -> dict[str, Any]:
    """The knobs that were typed: leaf name -> value. "none" empties a knob that may be empty."""
    typed = vars(args)
    return {leaf.name: _value(leaf, typed[leaf.name]) for leaf in _leaves(configs) if leaf.name in typed}


def _leaves(configs: Sequence[type[BaseModel]]) -> list[Leaf]:
    """The knobs of all these kinds, each name once."""
    return list({leaf.name: leaf for config in reversed(configs) for leaf in leaves(config)}.values())


def _value(leaf: Leaf, value: Any) -> Any:
    if leaf.optional and isinstance(value, str) and value.lower() == "none":
        return None
    if leaf.many:
        return tuple(value)
    if leaf.type in (int, float) and isinstance(value, str):
        try:
            return leaf.type(value)
        except ValueError:
            pass  # stays text: the config says what it should have been
    return value


def _how(leaf: Leaf) -> dict[str, Any]:
    """The keyword arguments of `add_argument` for one knob."""
    how: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(leaf)}
    if leaf.type is bool:
        return {**how, "action": argparse.BooleanOptionalAction}
    if leaf.many:
        how["nargs"] = "*"
    kind = {int: "N", float: "X"}.get(leaf.type, "TEXT")
    return {**how, "metavar": "{" + ",".join(leaf.choices) + "}" if leaf.choices else kind}


def _help(leaf: Leaf) -> str:
    empty = f" none: {leaf.none_label}." if leaf.none_label else ""
    return (leaf.hint + empty).replace("%", "%%")  # argparse reads % as a format
