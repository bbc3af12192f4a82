"""The main picture of the Attention page: all heads small, one head large, its tokens with arcs, and lists of kinds."""

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app.ui.head_grid import head_grid, tips
from app.ui.heatmaps import brightest, draw, pooled, shorten, token_heatmap
from app.ui.looking import MOST_WHOLE, Look
from app.ui.messages import plain
from app.ui.token_arcs import token_arcs
from app.ui.words_of_looking import concept, definitions, export

HEAD_KEY = "head"
"""Query parameter and session key: the enlarged head, LAYER.HEAD."""

KINDS = {
    "induction": "Induction",
    "previous_token": "Previous token",
    "duplicate_token": "Duplicate token",
    "sink": "First-token sink",
    "entropy": "Spread (entropy)",
    "distance": "Mean distance",
}
SHORT = {
    "induction": "induction", "previous_token": "previous", "duplicate_token": "duplicate", "sink": "sink",
    "entropy": "spread", "distance": "distance",
}  # fmt: skip
LISTED = 12
PART = 256
"""Tokens of a long text that are shown one by one."""
_PART_KEY = "text_part"


def selected_head(n_layers: int, n_heads: int) -> tuple[int, int]:
    """The enlarged head, inside this model."""
    text = st.query_params.get(HEAD_KEY) or st.session_state.get(HEAD_KEY) or "0.0"
    layer, _, head = str(text).partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        return 0, 0
    return min(int(layer), n_layers - 1), min(int(head), n_heads - 1)


def select_head(layer: int, head: int) -> None:
    """Enlarge this one. For callbacks."""
    st.session_state[HEAD_KEY] = st.query_params[HEAD_KEY] = f"{layer}.{head}"


def draw_heads(look: Look, kv_heads: int) -> None:
    """The grid, and the chosen head beside it."""
    small, stats = look.pictures, look.figures
    layer, head = selected_head(*small.shape[:2])
    left, right = st.columns([5, 7], gap="medium")
    with left:
        st.markdown("**All heads** · a row for each layer, the first on top; click one")
        head_grid(
            small, kv_heads=kv_heads, selected=(layer, head), tips=tips(stats, SHORT), on_choose=select_head,
            key="head_grid", name=f"heads-{look.file_name}",
        )  # fmt: skip
        export(lambda: heads_frame(stats), name=f"heads-{look.file_name}", key="grid_csv")
        shared = " Heads under one bar share keys and values." if kv_heads < small.shape[1] else ""
        st.caption(
            "Each picture: the text downwards looks at the text to the right; the brighter, the more. Look for a line "
            "beside the diagonal (previous token), a bright first column (a resting head), and stripes after a repeat "
            f"(induction).{shared} {concept('attention')}"
        )
    with right:
        _draw_one(look, layer, head)


def _draw_one(look: Look, layer: int, head: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        mean = st.segmented_control(
            "View", ["This head", "Mean of its layer"], default="This head", required=True, key="head_view",
            label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
        without_first = st.toggle(
            "Colours without the first token", key="without_first", persist_state="session",
            help="The first token often takes most of the weight, and leaves no colour for the rest.",
        )  # fmt: skip
    if mean == "This head":
        weights, title = look.pattern(layer, head), f"layer {layer}, head {head}"
    else:
        weights = look.mean_pattern(layer)
        title = f"layer {layer}, mean over its heads"
    st.markdown(f"**{title[0].upper()}{title[1:]}** · rows look at columns, each row sums to 1")
    file = f"attention-{look.file_name}-{layer}.{head if mean == 'This head' else 'mean'}"
    draw_weights(weights, look, key="head_large", name=file, without_first=without_first)
    st.caption(
        "Rows near the top have few tokens to look at and are bright for it; colours end at the largest weight "
        "of the other rows. Point at a cell for its value."
    )
    export(lambda: matrix_frame(weights, look.tokens), name=file, key="head_csv")


def draw_weights(
    weights: NDArray[np.floating], look: Look, *, key: str, name: str, without_first: bool = False,
    diverging: bool = False,
) -> None:  # fmt: skip
    """One head's weights, or a difference of two: whole, or of a long text the overview or the part that is chosen."""
    tokens, names = look.tokens, None
    if len(tokens) > MOST_WHOLE:
        view = st.segmented_control(
            "Of the long text", ["Overview", "The chosen part"], default="Overview", required=True, key=f"{key}_view",
            persist_state="session",
        )  # fmt: skip
        if view == "Overview":
            weights, short, names = pooled(weights, tokens, PART)
            tokens = tuple(short)
            st.caption(f"A cell stands for {-(-len(look.tokens) // PART)} tokens each way, with the largest weight.")
        else:
            part = chosen_part(look)
            weights, tokens = weights[part, part], tokens[part]
            names = [f"{place} {look.tokens[place]}" for place in range(part.start, part.stop)]
    top = float(np.abs(weights).max()) if diverging else brightest(weights, skip_first_key=without_first)
    draw(token_heatmap(weights, tokens, names=names, top=top, diverging=diverging), key=key, name=name)


def chosen_part(look: Look) -> slice:
    """The tokens that are shown one by one: all, or of a long text those that `draw_tokens` lets choose."""
    count = len(look.tokens)
    if count <= MOST_WHOLE:
        return slice(0, count)
    start = min(st.session_state.get(_PART_KEY, 0), count - PART)
    return slice(start, start + PART)


def draw_tokens(look: Look) -> None:
    """The text as tokens, with the chosen head's arcs."""
    layer, head = selected_head(look.capture.n_layers, look.n_heads)
    count = len(look.tokens)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"**{count:,} {'token' if count == 1 else 'tokens'}** as the model sees them · arcs of head {layer}.{head}",
            width="content",
        )
        backwards = st.toggle("Who looks at it", key="arcs_backwards", persist_state="session")
        if len(look.tokens) > MOST_WHOLE:
            starts = [*range(0, len(look.tokens) - PART, PART // 2), len(look.tokens) - PART]
            if st.session_state.get(_PART_KEY) not in starts:
                st.session_state[_PART_KEY] = starts[0]
            st.select_slider(
                "The chosen part", starts, key=_PART_KEY, persist_state="session", width=360,
                format_func=lambda start: f"{start:,} to {start + PART - 1:,}",
                help="Of a long text this part is shown token by token; arcs within it.",
            )  # fmt: skip
    part = chosen_part(look)
    token_arcs(
        look.tokens[part], look.pattern(layer, head)[part, part], key="arcs", backwards=backwards, first=part.start
    )
    st.caption("Click a token: arcs and colour show what it takes from (at most 12 arcs, from 0.01 on). ␣ is a space.")


def matrix_frame(weights: NDArray[np.floating], tokens: tuple[str, ...]) -> pd.DataFrame:
    """Long rows for a CSV: query, key, weight, without the future."""
    query, key = np.tril_indices(len(weights))
    return pd.DataFrame(
        {
            "query": query, "query_token": [tokens[i] for i in query], "key": key,
            "key_token": [tokens[i] for i in key], "weight": weights[query, key],
        }
    )  # fmt: skip


def heads_frame(stats: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    """A row for each head with all its figures."""
    n_layers, n_heads = next(iter(stats.values())).shape
    layer, head = np.divmod(np.arange(n_layers * n_heads), n_heads)
    columns = {KINDS.get(name, name): values.reshape(-1) for name, values in stats.items()}
    return pd.DataFrame({"layer": layer, "head": head, **columns})


def draw_kinds(look: Look) -> None:
    """Heads of each kind, the clearest first."""
    stats = look.figures
    kind = st.segmented_control(
        "Kind", list(KINDS), format_func=lambda name: KINDS[name], default="induction", required=True, key="kind",
        persist_state="session",
    )  # fmt: skip
    st.markdown(definitions()[kind])
    values = stats[kind]
    order = [int(i) for i in np.argsort(-values, axis=None, kind="stable") if np.isfinite(values.flat[i])]
    if not order:
        st.info("This text has nothing to judge that by: type one in which something is repeated.")
    else:
        if kind == "entropy":
            order = order[::-1]
            st.caption("The most focused first.")
        with st.container(horizontal=True, gap="small"):
            for number in order[:LISTED]:
                layer, head = divmod(number, values.shape[1])
                st.button(
                    f"{layer}.{head} · {values[layer, head]:.2f}", key=f"kind_{layer}_{head}",
                    on_click=select_head, args=(layer, head), help="Enlarge it above.",
                )  # fmt: skip
        st.caption(f"LAYER.HEAD · value; {len(order)} heads in all. {chance(look, kind)}")
    frame = heads_frame(stats)
    st.dataframe(
        frame, hide_index=True, height=300,
        column_config={name: st.column_config.NumberColumn(format="%.3f") for name in KINDS.values()},
    )  # fmt: skip
    export(frame, name=f"heads-{look.file_name}", key="heads_csv")


def chance(look: Look, kind: str) -> str:
    """What a head that spreads its attention evenly would get on this text."""
    from lab.analysis import heads

    targets = {
        "induction": heads.induction_targets,
        "previous_token": heads.previous_token_targets,
        "duplicate_token": heads.duplicate_token_targets,
    }
    if kind not in targets:
        return ""
    share, n_queries = heads.even_spread(targets[kind](look.ids))
    if not n_queries:
        return ""
    return f"A head that spreads evenly would get {share:.2f}; {n_queries:,} tokens of this text are judged."


def token_choice(label: str, look: Look, *, key: str, help: str | None = None) -> int:
    """A position of the text, the last by default."""
    count = len(look.tokens)
    if count == 1:
        return 0
    if st.session_state.get(key, 0) >= count:
        st.session_state[key] = count - 1
    return st.select_slider(
        label, range(count), value=st.session_state.get(key, count - 1), key=key, help=help,
        format_func=lambda place: f"{place} {plain(shorten(look.tokens[place]))}",
    )  # fmt: skip
