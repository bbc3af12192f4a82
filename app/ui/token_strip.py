"""Tokens side by side as the model reads or writes them: plain, learnt, the end, cut off; or coloured by a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import streamlit as st

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "token_strip",
    html='<div class="strip" role="list"></div>',
    css=(_FOLDER / "token_strip.css").read_text(encoding="utf-8"),
    js=(_FOLDER / "token_strip.js").read_text(encoding="utf-8"),
)

Kind = Literal["plain", "learnt", "end", "cut"]


@dataclass(frozen=True)
class Chip:
    """One token."""

    label: str
    kind: Kind = "plain"
    heat: float | None = None
    """From 0 to 1: how strongly it is coloured; None: by its kind."""
    title: str = ""
    """Said when somebody points at it."""


def token_strip(chips: Sequence[Chip], *, key: str, height: int | None = None) -> None:
    """Draw the tokens.

    Args:
        height: scroll inside this many pixels; None takes what is needed.
    """
    data = {
        "chips": [[chip.label, chip.kind, chip.heat, chip.title] for chip in chips],
        "height": height,
    }
    _component(key=key, data=data, height="content", width="stretch")
