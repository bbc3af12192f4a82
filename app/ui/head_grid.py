"""All heads of a model as small pictures, on one canvas: hundreds of charts would keep the browser busy for seconds."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 32
"""Pixels of a picture, each way; a longer text is pooled."""
HIDDEN = 255
"""Stands for a key that no query of this place can see."""

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "head_grid",
    html='<div class="scroll"><canvas role="img" tabindex="0"></canvas></div><div class="said" role="status"></div>'
    '<a class="save" href="#" role="button">PNG</a>',
    css=(_FOLDER / "head_grid.css").read_text(encoding="utf-8"),
    js="\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("head_grid.js", "colours.js")),
)


def head_grid(
    pictures: NDArray[np.uint8],
    *,
    kv_heads: int,
    selected: tuple[int, int],
    tips: Sequence[str],
    marked: Sequence[int] = (),
    on_choose: Callable[[int, int], None],
    key: str,
    name: str = "heads",
) -> None:
    """Draw the grid.

    Args:
        pictures: [layer, head, size, size], from `thumbnails`.
        kv_heads: fewer than heads: neighbouring heads are drawn as the groups that share keys and values.
        tips: a line for each head, layer by layer.
        marked: numbers (layer × heads + head) of heads to frame.
        on_choose: told layer and head.
        name: of the picture that can be saved.
    """
    n_layers, n_heads, size, _ = pictures.shape

    def chosen() -> None:
        head = st.session_state[key].get("head")
        if head is not None:
            on_choose(int(head[0]), int(head[1]))

    _component(
        key=key,
        data={
            "thumbs": base64.b64encode(pictures.tobytes()).decode(),
            "size": size,
            "layers": n_layers,
            "heads": n_heads,
            "kv_heads": kv_heads,
            "selected": list(selected),
            "marked": list(marked),
            "tips": list(tips),
            "name": name,
        },
        on_head_change=chosen,
        height="content",
        width="stretch",
    )


def thumbnails(attention: "Sequence[Tensor]", size: int = SIZE) -> NDArray[np.uint8]:
    """A small picture of every head: [batch, head, query_pos, key_pos] per layer -> uint8 [layer, head, size, size].

    The largest weight of the cells that fall together is drawn, so that a thin line stays a line. The root of
    the weight is what grows with the colour: 0.01 can be told from 0. 0 to 254; HIDDEN in the future.
    """
    import torch
    from torch.nn.functional import adaptive_max_pool2d

    length = attention[0].shape[-1]
    size = min(size, length)
    seen = torch.ones(length, length).tril()[None]
    hidden = adaptive_max_pool2d(seen, size)[0] == 0
    pictures = []
    for weights in attention:
        pooled = adaptive_max_pool2d(weights[0].float().cpu(), size)  # [head, size, size]
        scaled = (pooled.clamp(0, 1).sqrt() * 254).round().to(torch.uint8)
        scaled[:, hidden] = HIDDEN
        pictures.append(scaled)
    return torch.stack(pictures).numpy()


def tips(stats: Mapping[str, NDArray[np.floating]], names: Mapping[str, str]) -> list[str]:
    """For each head its figures in words, layer by layer.

    Args:
        stats: name -> [layer, head].
        names: name -> how a person calls it, in the order to say them.
    """
    n_layers, n_heads = next(iter(stats.values())).shape
    lines = []
    for layer in range(n_layers):
        for head in range(n_heads):
            said = [(word, float(stats[name][layer, head])) for name, word in names.items()]
            lines.append(" · ".join(f"{word} {value:.2f}" for word, value in said if np.isfinite(value)))
    return lines
