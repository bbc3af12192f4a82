"""Further views of the Attention page: rollout, and heads switched off."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from app.ui.attention_heads import matrix_frame, select_head, selected_head
from app.ui.heatmaps import draw, layer_heatmap, token_heatmap
from app.ui.looking import MOST_WHOLE, Look
from app.ui.messages import plain, speaking
from app.ui.words_of_looking import concept, export

if TYPE_CHECKING:
    from lab.sessions import ModelSession

OFF_KEY = "heads_off"
_IMPORTANCE = "head_importance"


def draw_rollout(look: Look) -> None:
    """How much of each input token has reached each place."""
    from lab.analysis.attention import rollout

    if not look.is_whole:
        st.info(f"Rollout needs the weights of every layer at once: take a text of at most {MOST_WHOLE} tokens.")
        return
    n_layers = look.capture.n_layers
    layer = n_layers - 1
    if n_layers > 1:
        layer = st.select_slider("After layer", range(n_layers), value=n_layers - 1, key="rollout_layer")
    reached = rollout(look.capture.attention)[layer, 0].float().cpu().numpy()
    draw(token_heatmap(reached, look.tokens), key="rollout", name=f"rollout-{look.file_name}-{layer}")
    st.caption(
        "Row: a place after this layer. Column: an input token, and its share in what stands there, if attention alone "
        "moved things: half stays, half is fetched by the mean of the heads, layer upon layer. A rough map: it knows "
        f"nothing of what values carry, nor of the feed-forward. {concept('attention')}"
    )
    export(lambda: matrix_frame(reached, look.tokens), name=f"rollout-{look.file_name}-{layer}", key="rollout_csv")


def draw_ablation(look: Look, session: "ModelSession") -> None:
    """Switch heads off, and see what the text loses."""
    names = [f"{layer}.{head}" for layer in range(look.capture.n_layers) for head in range(look.n_heads)]
    chosen_now = "{}.{}".format(*selected_head(look.capture.n_layers, look.n_heads))
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        st.session_state[OFF_KEY] = [name for name in st.session_state.get(OFF_KEY, [chosen_now]) if name in names]
        off = st.multiselect("Heads to switch off (LAYER.HEAD)", names, key=OFF_KEY, persist_state="session")
    with right:
        replace_by = st.segmented_control(
            "Put in their place", ["zero", "mean"], default="zero", required=True, key="off_by",
            persist_state="session",
            help="zero: nothing. mean: what the head says on average over this text, so that only what it says about "
            "this place goes.",
        )  # fmt: skip
    if off:
        with speaking():
            _draw_loss(look, session, [_pair(name) for name in off], replace_by or "zero")
    st.caption(
        "A pattern shows where a head looks, not whether it matters. A small change is no proof of uselessness either: "
        f"other heads may do the same work. {concept('attention')}"
    )
    _draw_importance(look, session, replace_by or "zero")


def _draw_loss(look: Look, session: "ModelSession", heads: list[tuple[int, int]], replace_by: str) -> None:
    from lab.analysis.ablation import ablate

    with session.lock:
        found = ablate(session.anatomy, look.ids, heads, replace_by=replace_by)  # type: ignore[arg-type]
    columns = st.columns([1, 1, 3])
    if len(look.tokens) > 1:
        before, after = found.loss_before.mean().item(), found.loss_after.mean().item()
        with columns[0]:
            st.metric("Loss of the text, all heads", f"{before:.3f}", help="nats per token")
        with columns[1]:
            st.metric("without them", f"{after:.3f}", delta=f"{after - before:+.3f} nats per token",
                      delta_color="inverse")  # fmt: skip
        change = (found.loss_after - found.loss_before)[0].float().cpu().numpy()
        with columns[2]:
            figure = layer_heatmap(
                change[None], look.tokens[1:], unit="nats", rows=["change"], diverging=True, column_title="token",
                row_title="", height=170,
            )  # fmt: skip
            draw(figure, key="off_tokens", name=f"heads-off-{look.file_name}")
            st.caption("Red: this token became harder to foresee without the heads. Blue: easier.")
            rows = {"token": look.tokens[1:], "loss_change_nats": change}
            export(pd.DataFrame(rows), name=f"heads-off-{look.file_name}", key="off_csv")
    likely = [
        {"next token": session.tokenizer.label(token), "with all heads": before, "without": after}
        for token, before, after in found.biggest_changes(8)
    ]
    st.markdown("**The next token after the text**, largest changes of probability first")
    st.dataframe(
        pd.DataFrame(likely), hide_index=True, width=560,
        column_config={name: st.column_config.NumberColumn(format="percent") for name in ("with all heads", "without")},
    )  # fmt: skip


def _draw_importance(look: Look, session: "ModelSession", replace_by: str) -> None:
    """Each head alone: one pass for each, so only when asked for."""
    asked = (look.title, look.text, replace_by)
    count = look.capture.n_layers * look.n_heads
    if len(look.tokens) < 2:
        return
    if st.button(f"Try each of the {count} heads alone", key="importance_ask", help="One pass over the text for each."):
        from lab.analysis.ablation import head_importance

        bar = st.progress(0.0, text="Switching off one head after the other …")

        def tell(done: int, total: int) -> None:
            bar.progress(done / total, text=f"Head {done:,} of {total:,}")

        with session.lock:
            found = head_importance(session.anatomy, look.ids, replace_by=replace_by, progress=tell)  # type: ignore[arg-type]
        st.session_state[_IMPORTANCE] = (asked, found.numpy())
        bar.empty()
    kept = st.session_state.get(_IMPORTANCE)
    if kept is None or kept[0] != asked:
        return
    change = kept[1]
    figure = layer_heatmap(change, range(change.shape[1]), unit="nats per token", diverging=True, number=".4f")
    draw(figure, key="importance", name=f"importance-{look.file_name}")
    layers, heads = np.unravel_index(np.argsort(-change, axis=None)[:8], change.shape)
    with st.container(horizontal=True, gap="small"):
        for layer, head in zip(layers.tolist(), heads.tolist(), strict=True):
            st.button(
                f"{layer}.{head} · {change[layer, head]:+.3f}", key=f"important_{layer}_{head}", on_click=select_head,
                args=(layer, head),
            )  # fmt: skip
    st.caption("By how many nats per token the text gets harder without each head alone; the most missed ones above.")
    layer, head = np.divmod(np.arange(change.size), change.shape[1])
    frame = pd.DataFrame({"layer": layer, "head": head, "loss_change_nats": change.reshape(-1)})
    export(frame, name=f"importance-{plain(look.file_name)}", key="importance_csv")


def _pair(name: str) -> tuple[int, int]:
    layer, _, head = name.partition(".")
    return int(layer), int(head)
