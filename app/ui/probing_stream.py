"""The residual stream on the page: how long it is, what each branch added, and how alike its layers are."""

import numpy as np
import pandas as pd
import streamlit as st

from app.ui.attention_compare import choose_second
from app.ui.attention_heads import token_choice
from app.ui.heatmaps import draw, layer_heatmap, lines, scatter
from app.ui.looking import ALL_POINTS, Look
from app.ui.messages import plain, speaking
from app.ui.model_choice import Choice
from app.ui.words_of_looking import concept, export

POINTS = {"pre_attn": "before attention", "post_attn": "after attention", "post_ffn": "after the feed-forward"}
EFFECTS = {
    "relative": ("Relative length", "length of what was added / length of the stream it was added to"),
    "length": ("Length", "length, in the model's own units"),
    "cosine": ("Cosine", "cosine to the stream: 0 something new, above 0 more of the same, below 0 erasing"),
    "turned": ("Turned", "degrees by which it turned the stream"),
}
MOST_TOKENS = 128
"""That are compared as clouds: more would take long and say the same."""
BRANCHES = {"attention": "attention (Δattn)", "feed_forward": "feed-forward (Δffn)"}


def draw_norms(look: Look) -> None:
    """Length of the stream by layer and position, at one of the three points."""
    from lab.analysis.residual import norms

    residual, virtual = look.capture.residual, look.capture.virtual
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        point = st.segmented_control(
            "Point", list(POINTS), format_func=lambda name: POINTS[name], default="post_ffn", required=True,
            key="norm_point", persist_state="session",
        )  # fmt: skip
        log = st.toggle("Logarithmic colours", value=True, key="norm_log", persist_state="session",
                        help="One or two positions are often a hundred times longer than the rest.")  # fmt: skip
    lengths = norms(residual[point])[:, 0].float().cpu().numpy()  # [layer, pos]
    if point in virtual:
        st.caption("Virtual in this model: its two branches run side by side, so nothing ever stands between them.")
    shown = np.log10(np.maximum(lengths, 1e-9)) if log else lengths
    unit = "log10 of length" if log else "length"
    draw(layer_heatmap(shown, look.tokens, unit=unit, column_title="token"), key="norms",
         name=f"norms-{point}-{look.file_name}")  # fmt: skip
    st.caption(
        "Length of the vector at each layer and token. It usually grows, since blocks add and seldom take away; a "
        f"column far brighter than the rest is the other end of the attention sink. {concept('residual-stream')}"
    )
    layer, position = np.indices(lengths.shape)
    frame = pd.DataFrame(
        {
            "layer": layer.ravel(), "position": position.ravel(),
            "token": [look.tokens[i] for i in position.ravel()], "length": lengths.ravel(),
        }
    )  # fmt: skip
    export(frame, name=f"norms-{point}-{look.file_name}", key="norms_csv")


def draw_branches(look: Look, choice: Choice) -> None:
    """What attention and what the feed-forward did in each layer, apart; and whose work the end is."""
    from lab.analysis.residual import layer_diff, shares, stream_parts

    diff = layer_diff(look.capture.residual)
    effect = st.segmented_control(
        "Figure", list(EFFECTS), format_func=lambda name: EFFECTS[name][0], default="relative", required=True,
        key="branch_effect", persist_state="session",
    )  # fmt: skip
    curves = {label: getattr(getattr(diff, branch), effect).cpu().numpy() for branch, label in BRANCHES.items()}
    layers = list(range(look.capture.n_layers))
    draw(lines(curves, layers, x_title="layer", y_title=EFFECTS[effect][0]), key="branches",
         name=f"branches-{effect}-{look.file_name}")  # fmt: skip
    st.caption(f"{EFFECTS[effect][1].capitalize()}; mean over the text. {concept('residual-stream')}")
    frame = pd.DataFrame({"layer": layers, **curves})
    export(frame, name=f"branches-{effect}-{look.file_name}", key="branches_csv")

    if st.toggle("Beside another model or step", key="branches_other", persist_state="session"):
        with speaking():
            second = choose_second(look, choice, points=ALL_POINTS)
            if second is not None:
                _draw_change(look, second)

    place = token_choice("Whose work is the final vector at", look, key="share_place")
    residual = look.capture.residual
    here = [residual[name][:, :, place : place + 1] for name in ("pre_attn", "delta_attn", "delta_ffn")]
    names, parts = stream_parts(*here)
    share = shares(parts)[:, 0, 0].cpu().numpy()
    by_branch = {"attention (Δattn)": share[1::2], "feed-forward (Δffn)": share[2::2]}
    draw(lines(by_branch, layers, x_title="layer", y_title="share of the end", height=260), key="shares",
         name=f"shares-{look.file_name}")  # fmt: skip
    st.caption(
        f"Shares along the final direction; all together make 1, of which the embedding has {share[0]:.3f}. A negative "
        "share works against the end."
    )
    export(pd.DataFrame({"part": names, "share": share}), name=f"shares-{look.file_name}", key="shares_csv")


def _draw_change(look: Look, second: Look) -> None:
    """What attention and what the feed-forward add differently in another model that read the same text."""
    from lab.analysis.residual import compare_branches

    if second.ids.tolist() != look.ids.tolist():
        st.info("These two models cut the text into different tokens, so their branches have no counterparts.")
        return
    change = compare_branches(second.capture.residual, look.capture.residual)
    layers = list(range(look.capture.n_layers))
    curves = {label: getattr(change, branch).cpu().numpy() for branch, label in BRANCHES.items()}
    figure = lines(curves, layers, x_title="layer", y_title="changed by", height=260)
    draw(figure, key="branches_change", name=f"change-{look.file_name}")
    st.caption(
        f"How far what each branch adds is from what it adds in {plain(second.title)}, as a share of the latter; mean "
        "over the text. 0: the same. Later layers read what earlier ones wrote, so a change grows on its way up."
    )
    frame = pd.DataFrame({"layer": layers, **curves})
    export(frame, name=f"change-{look.file_name}", key="change_csv")


def draw_similarity(look: Look, choice: Choice) -> None:
    """CKA between layers or models, effective rank, and a picture of the cloud."""
    from lab.analysis.similarity import cka_of_layers, effective_rank, pca

    if len(look.tokens) < 8:
        st.info(f"{len(look.tokens)} tokens are too few to compare clouds: take a text of eight or more.")
        return
    tokens = look.tokens[-MOST_TOKENS:]
    rows = look.capture.residual.stream[:, 0, -MOST_TOKENS:].float().cpu()  # [layer + 1, pos, d_model]
    if len(tokens) < len(look.tokens):
        st.caption(f"Of the last {len(tokens)} of {len(look.tokens)} tokens.")
    names = ["embedding", *(f"after {layer}" for layer in range(look.capture.n_layers))]
    with st.container(horizontal=True):
        beside = st.toggle("Beside another model or step", key="cka_other", persist_state="session")
    second, other_names, other_title = rows, names, look.title
    if beside:
        there = None
        with speaking():
            there = choose_second(look, choice)
        if there is None:
            return
        if there.ids.shape != look.ids.shape:
            st.info("These two models cut the text into different tokens, so their clouds have no counterparts.")
            return
        second, other_title = there.capture.residual.stream[:, 0, -MOST_TOKENS:].float().cpu(), there.title
        other_names = ["embedding", *(f"after {layer}" for layer in range(there.capture.n_layers))]
    left, right = st.columns(2, gap="medium")
    with left, speaking():
        st.markdown("**Alike or not** (debiased linear CKA)")
        alike = cka_of_layers(rows, second).numpy()
        draw(
            layer_heatmap(alike, other_names, unit="CKA", rows=names, row_title="", column_title=other_title, low=0.0,
                          high=1.0, height=440),
            key="cka", name=f"cka-{look.file_name}",
        )  # fmt: skip
        st.caption(
            "1: the same picture of the text up to rotation and size, 0: unrelated. Look for blocks of layers that are "
            f"alike. {concept('residual-stream')}"
        )
        frame = pd.DataFrame(alike, index=names, columns=other_names).reset_index(names="layer")
        export(frame, name=f"cka-{look.file_name}", key="cka_csv")
    with right:
        st.markdown("**The cloud of one layer**")
        row = st.select_slider("Stream", range(len(names)), value=len(names) - 1, format_func=lambda i: names[i],
                               key="pca_row")  # fmt: skip
        with speaking():
            found = pca(rows[row])
            draw(scatter(found.coordinates.cpu().numpy(), tokens, found.explained.cpu().numpy()), key="pca",
                 name=f"pca-{look.file_name}")  # fmt: skip
            st.caption(
                "Each dot a token, on the two directions in which they spread most; one far off is often the first."
            )
            dots = pd.DataFrame(found.coordinates.cpu().numpy()).add_prefix("direction_")
            dots.insert(0, "token", tokens)
            export(dots, name=f"pca-{look.file_name}-{row}", key="pca_csv")
    ranks = [effective_rank(cloud) for cloud in rows]
    draw(lines({"effective rank": ranks}, list(range(len(ranks))), x_title="row of the stream (0: the embedding)",
               y_title="directions in use", height=240), key="ranks", name=f"rank-{look.file_name}")  # fmt: skip
    export(pd.DataFrame({"row": names, "effective_rank": ranks}), name=f"rank-{look.file_name}", key="rank_csv")
    st.caption(f"How many directions the {len(tokens)} vectors really use; at most {min(rows.shape[1:])}.")
