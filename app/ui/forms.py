"""From a config's fields to widgets, and back to values.

Label, hint, unit and bounds come from the knob itself (`lab.config.leaves`); a page only says which fields
it wants where. Every widget is bound to the address of the page, so that what somebody typed survives
polls, page switches and reloads, and a link carries the whole form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import floor, log10
from typing import Any

import streamlit as st
from pydantic import BaseModel

from lab.config import Leaf, leaves

_STEPS = {"context_length": 64, "emb_dim": 64, "seed": 1, "drop_rate": 0.05, "attention_drop_rate": 0.05}
"""By how much plus and minus move a field, where a tenth of its default would be odd."""


@dataclass(frozen=True)
class Form:
    """The widgets of one config on one page."""

    config: type[BaseModel]
    defaults: Mapping[str, Any]
    """What each field starts with, by leaf name."""
    prefix: str = ""
    """Told apart from other forms of the session by this beginning of the keys."""

    @property
    def leaves(self) -> dict[str, Leaf]:
        return _leaves_by_name(self.config)

    def key(self, name: str) -> str:
        return self.prefix + name

    def field(
        self, name: str, *, start: Any = None, options: Sequence[str] = (), naming: Callable[[str], str] = str
    ) -> None:
        """Draw the widget of one knob where the script stands.

        Args:
            start: begin with this instead of the form's default.
            options: offer these values, and take others too, for a text such as the corpus.
            naming: how an option is shown.
        """
        leaf = self.leaves[name]
        common: dict[str, Any] = {
            "label": leaf.title,
            "key": self.key(name),
            "help": hint(leaf),
            "bind": "query-params",
        }
        start = self.defaults[name] if start is None else start
        if options:
            st.selectbox(
                options=list(options), index=options.index(start), format_func=naming, accept_new_options=True, **common
            )
        elif leaf.choices:
            st.selectbox(options=list(leaf.choices), index=leaf.choices.index(start), **common)
        elif leaf.many:
            st.text_area(value=to_lines(start), placeholder="one per line", height=80, **common)
        elif leaf.type is bool:
            st.toggle(value=start, **common)
        elif leaf.type in (int, float):
            st.number_input(value=start, **number_bounds(leaf, start), **common)
        else:
            st.text_input(value=start, **common)

    def values(self) -> dict[str, Any]:
        """What the form says now, by leaf name. A field that was never drawn has its default."""
        found: dict[str, Any] = {}
        for name, leaf in self.leaves.items():
            value = st.session_state.get(self.key(name), self.defaults[name])
            found[name] = from_lines(value) if leaf.many and isinstance(value, str) else value
        return found

    def fill(self, values: Mapping[str, Any]) -> None:
        """Put values into the fields. Streamlit allows this in a callback only: before the fields are drawn."""
        known = self.leaves
        for name, value in values.items():
            if name in known and known[name].level != "derived":
                st.session_state[self.key(name)] = to_lines(value) if known[name].many else value

    def groups(self, *, without: Sequence[str] = ()) -> dict[str, list[str]]:
        """The advanced fields by the group they belong to, in the order the config has them."""
        found: dict[str, list[str]] = {}
        for name, leaf in self.leaves.items():
            if leaf.level == "advanced" and name not in without:
                found.setdefault(leaf.group, []).append(name)
        return found


@cache
def _leaves_by_name(config: type[BaseModel]) -> dict[str, Leaf]:
    return {leaf.name: leaf for leaf in leaves(config)}


def hint(leaf: Leaf) -> str:
    """The knob's own hint, and what leaving it empty means."""
    return f"{leaf.hint} Not set: {leaf.none_label}." if leaf.none_label else leaf.hint


def number_bounds(leaf: Leaf, start: float | None) -> dict[str, Any]:
    """Bounds, step and format of a number's widget, all of the knob's own type.

    A bound that is excluded ("more than 0") cannot be said to the widget; the config says it when it is checked.
    """
    kind = leaf.type
    step = _STEPS.get(leaf.name) or tenth(start, kind)
    return {
        "min_value": kind(leaf.minimum) if leaf.minimum is not None else None,
        "max_value": kind(leaf.maximum) if leaf.maximum is not None else None,
        "step": kind(step),
        "format": "%d" if kind is int else "%g",
        "placeholder": "not set" if leaf.optional else None,
    }


def tenth(start: float | None, kind: type) -> float:
    """A tenth of the magnitude of the default: 0.003 moves by 0.0001, 2,000 by 100."""
    if not start:
        return 1
    magnitude = 10.0 ** (floor(log10(abs(start))) - 1)
    return max(1, int(magnitude)) if kind is int else magnitude


def to_lines(texts: Sequence[str]) -> str:
    return texts if isinstance(texts, str) else "\n".join(texts)


def from_lines(text: str) -> tuple[str, ...]:
    return tuple(line for line in text.splitlines() if line.strip())
