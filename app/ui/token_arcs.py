"""A text as the model sees it, token by token, with arcs to what the chosen token looks at."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import NDArray

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "token_arcs",
    html='<div class="scroll"><div class="tokens"><svg aria-hidden="true"></svg></div></div>'
    '<div class="said" role="status"></div>',
    css=(_FOLDER / "token_arcs.css").read_text(encoding="utf-8"),
    js="\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("token_arcs.js", "colours.js")),
)


def token_arcs(
    tokens: Sequence[str], weights: NDArray[np.floating], *, key: str, backwards: bool = False, first: int = 0
) -> None:
    """Draw the tokens; a click chooses one.

    Args:
        weights: [query_pos, key_pos], shares from 0 to 1.
        first: place of the first of these tokens in the text, where they are a part of it.
        backwards: who looks *at* the chosen token, instead of what it looks at.
    """
    fine = np.round(np.clip(weights, 0, 1) * 65_535).astype("<u2")
    packed = base64.b64encode(fine.tobytes()).decode()
    data = {"tokens": list(tokens), "weights": packed, "backwards": backwards, "first": first}
    _component(key=key, data=data, height="content", width="stretch")
