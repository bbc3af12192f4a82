"""Which part of the model wrote for which token: direct logit attribution."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from app.ui.attention_heads import select_head, token_choice
from app.ui.heatmaps import draw, layer_heatmap, lines
from app.ui.looking import Look
from app.ui.messages import plain, speaking
from app.ui.words_of_looking import concept, export
from lab.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from lab.sessions import ModelSession

TEN = 10


def token_id(session: "ModelSession", text: str) -> int:
    """The token that a person typed; its first one when it is more than one.

    Raises:
        DataError: nothing was typed, or the tokenizer does not know it.
    """
    special = len(session.tokenizer.encode(""))  # some tokenizers put a token before every text
    ids = session.tokenizer.encode(text)[special:]
    if not ids:
        raise DataError("Type the token to ask for, with its leading space if it has one.")
    return ids[0]


def draw_attribution(look: Look, session: "ModelSession") -> None:
    """A logit taken apart: what each branch, and each head, wrote for or against a token."""
    place = token_choice("At token", look, key="attribution_place", help="What follows this token is asked about.")
    import torch

    from lab.analysis.readout import read_out

    with session.lock, torch.no_grad():
        logits = read_out(session.anatomy, look.capture.residual.stream[-1][:, place])[0]
    likely = logits.softmax(-1).topk(min(TEN, len(logits)))
    names = {int(token): f"{session.tokenizer.label(int(token))} ({int(token)})" for token in likely.indices}
    ids = list(names)
    left, middle, right = st.columns(3)
    with left:
        token = st.selectbox(
            "For the token", ids, format_func=lambda one: names.get(one, str(one)), key=f"attribute_for_{place}",
            help="The ten likeliest next tokens; any other can be typed beside.",
        )  # fmt: skip
    with middle:
        against = st.selectbox(
            "against", [None, *ids], index=min(2, len(ids)), format_func=lambda one: names.get(one, "nothing"),
            key=f"attribute_against_{place}",
            help="The difference of two logits shows what decided between them; all logits can rise together without "
            "changing anything.",
        )  # fmt: skip
    with right:
        typed = st.text_input("or type a token", key="attribute_typed", placeholder="␣ as a space: ' Paris'")
    with speaking():
        if typed:
            token = token_id(session, typed)
        name = session.tokenizer.label(token)
        probability = likely_share(logits, token)
        versus = "" if against is None else f" against {plain(session.tokenizer.label(against))}"
        st.markdown(f"Logit of **{plain(name)}** (probability {100 * probability:.2g} %){versus}, part by part")
        _draw_parts(look, session, place, token, against)


def likely_share(logits: "Tensor", token: int) -> float:
    """Of [vocab]."""
    return float(logits.softmax(-1)[token])


def _draw_parts(look: Look, session: "ModelSession", place: int, token: int, against: int | None) -> None:
    from lab.analysis.attribution import attribute
    from lab.analysis.residual import stream_parts

    residual = look.capture.residual
    here = [residual[name][:, :, place : place + 1] for name in ("pre_attn", "delta_attn", "delta_ffn")]
    names, parts = stream_parts(*here)
    final = residual.stream[-1][:, place : place + 1]
    with session.lock:
        found = attribute(session.anatomy, parts, final, token, against=against)
    values = found.values[:, 0, 0].cpu().numpy()
    layers = list(range(look.capture.n_layers))
    curves = {"attention (Δattn)": values[1::2], "feed-forward (Δffn)": values[2::2]}
    draw(lines(curves, layers, x_title="layer", y_title="logits", height=300), key="attribution",
         name=f"attribution-{look.file_name}")  # fmt: skip
    st.caption(
        f"All parts, the embedding ({values[0]:+.2f}) and constants ({found.constant.item():+.2f}) add up to "
        f"{found.total.item():.3f}. Above 0 a layer wrote for the token, below 0 against it. Only what is written for "
        f"the output counts here, not what later layers read. {concept('residual-stream')}"
    )
    export(pd.DataFrame({"part": names, "logits": values}), name=f"attribution-{look.file_name}", key="attribution_csv")
    _draw_heads(look, session, place, token, against)


def _draw_heads(look: Look, session: "ModelSession", place: int, token: int, against: int | None) -> None:
    """The same per head: attention's part of each layer, split among its heads."""
    import torch

    from lab.analysis.attribution import attribute, head_writes
    from lab.analysis.recording import record_heads

    parts = session.anatomy
    final = look.capture.residual.stream[-1][:, place : place + 1]
    delta = look.capture.residual["delta_attn"]
    with session.lock, torch.no_grad():
        fetched = record_heads(parts, look.ids)
        rows = []
        for layer, block in enumerate(parts.blocks):
            here = slice(place, place + 1)  # each place is mixed for itself
            writes, _ = head_writes(block, fetched[layer][:, here], delta=delta[layer][:, here])
            wrote = attribute(parts, writes, final, token, against=against)
            rows.append(wrote.values[:, 0, 0].cpu().numpy())
    values = np.stack(rows)  # [layer, head]
    st.markdown("**The same per head**")
    draw(layer_heatmap(values, range(values.shape[1]), unit="logits", diverging=True), key="attribution_heads",
         name=f"attribution-heads-{look.file_name}")  # fmt: skip
    order = np.argsort(-np.abs(values), axis=None)[:8]
    with st.container(horizontal=True, gap="small"):
        for layer, head in zip(*np.unravel_index(order, values.shape), strict=True):
            st.button(f"{layer}.{head} · {values[layer, head]:+.2f}", key=f"wrote_{layer}_{head}",
                      on_click=select_head, args=(int(layer), int(head)),
                      help="Marks it as the head that the Attention page enlarges.")  # fmt: skip
    st.caption("Red: the head wrote for the token. Blue: against it. The heads with the largest parts are listed.")
    layers, heads = np.divmod(np.arange(values.size), values.shape[1])
    frame = pd.DataFrame({"layer": layers, "head": heads, "logits": values.ravel()})
    export(frame, name=f"attribution-heads-{look.file_name}", key="attribution_heads_csv")
