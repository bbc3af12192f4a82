"""Texts a model wrote: a timeline of samples, or one text that grows with its tokens coloured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "writing",
    html='<div class="box" tabindex="0" role="log"></div>',
    css=(_FOLDER / "writing.css").read_text(encoding="utf-8"),
    js=(_FOLDER / "writing.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One text."""

    pieces: Sequence[tuple[str, float | None]]
    """What was written, piece by piece, each with the probability the model gave it (None: not coloured)."""
    prompt: str = ""
    head: str = ""


def writing(entries: Sequence[Entry], *, key: str, height: int | None = None, follow: bool = False) -> None:
    """Draw texts below each other.

    Args:
        height: scroll inside this many pixels; None takes what is needed.
        follow: stay at the end as text is added, unless the person has scrolled up.
    """
    data = {
        "entries": [
            {"head": entry.head, "prompt": entry.prompt, "pieces": [list(piece) for piece in entry.pieces]}
            for entry in entries
        ],
        "height": height,
        "follow": follow,
    }
    _component(key=key, data=data, height="content", width="stretch")
