"""Two models on the same text: which heads differ most. And one model over its training: when did a head form?"""

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import state
from app.ui.attention_heads import KINDS, select_head, selected_head
from app.ui.heatmaps import draw, layer_heatmap, lines, token_heatmap
from app.ui.looking import Look, look_at
from app.ui.messages import plain, speaking
from app.ui.model_choice import Choice, choices, other_choice
from app.ui.words_of_looking import concept, export
from lab.store import series
from lab.store.looks import head_history

LISTED = 12
OTHER_KEY = "other"
"""Query parameter: the model to compare with."""


def draw_compare(look: Look, choice: Choice) -> None:
    """Choose another model or checkpoint; the same text; the difference of every head."""
    other = choose_other(choice)
    if other is None:
        return
    with speaking():
        second = look_at(other, look.text)
        _draw_difference(look, second)


def choose_other(choice: Choice) -> Choice | None:
    """Another model or step; None, with a sentence, when that is none."""
    labels = choices(only_here=True)
    left, right = st.columns(2)
    with left:
        before = st.query_params.get(OTHER_KEY) or st.session_state.get(OTHER_KEY)
        st.session_state["other_pick"] = before if before in labels else choice.model
        picked = st.selectbox(
            "Compare with", list(labels), format_func=lambda model: labels.get(model, model), key="other_pick",
            on_change=_other_picked, help="A model with the same shape and tokenizer; or another step of the same run.",
        )  # fmt: skip
    other = other_choice(picked, None)
    if other is None:
        st.info("That model is not on this machine.")
        return None
    if len(other.steps) > 1:
        with right:
            key = "other_step"
            if st.session_state.get(key) not in other.steps:
                st.session_state[key] = other.steps[0]
            step = st.select_slider(
                "at step", list(other.steps), format_func=lambda step: f"{step:,}", key=key, persist_state="session"
            )
        other = other_choice(picked, step)
    if other is not None and other.ref == choice.ref:
        st.info("That is the same model at the same step: choose another step or another model.")
        return None
    return other


def _other_picked() -> None:
    st.session_state[OTHER_KEY] = st.query_params[OTHER_KEY] = st.session_state["other_pick"]


def _draw_difference(one: Look, two: Look) -> None:
    from lab.analysis.heads import head_difference
    from lab.errors import ModelError

    if one.ids.tolist() != two.ids.tolist():
        raise ModelError(
            f"{one.title} and {two.title} read this text as different tokens, so their heads cannot be laid side by "
            "side: compare two checkpoints of a run, or a base and a tuned model."
        )
    difference = head_difference(one.capture.attention, two.capture.attention).cpu().numpy()
    left, right = st.columns([5, 7], gap="medium")
    with left:
        st.markdown("**How much each head changed**, in bits")
        figure = layer_heatmap(difference, range(difference.shape[1]), unit="bits", low=0.0)
        draw(figure, key="difference", name=f"difference-{one.file_name}-{two.file_name}")
        st.caption(
            "Jensen–Shannon difference of the two patterns, mean over the text: 0 the same, 1 nothing in common. "
            f"Largest first below. {concept('attention')}"
        )
        order = np.argsort(-difference, axis=None)[:LISTED]
        with st.container(horizontal=True, gap="small"):
            for layer, head in zip(*np.unravel_index(order, difference.shape), strict=True):
                st.button(
                    f"{layer}.{head} · {difference[layer, head]:.3f}", key=f"differs_{layer}_{head}",
                    on_click=select_head, args=(int(layer), int(head)),
                )  # fmt: skip
        layers, heads = np.divmod(np.arange(difference.size), difference.shape[1])
        frame = pd.DataFrame({"layer": layers, "head": heads, "jensen_shannon_bits": difference.reshape(-1)})
        export(frame, name="head-difference", key="difference_csv")
    with right:
        layer, head = selected_head(one.capture.n_layers, one.n_heads)
        st.markdown(f"**Head {layer}.{head}**: {plain(two.title)} minus {plain(one.title)}")
        change = two.pattern(layer, head) - one.pattern(layer, head)
        figure = token_heatmap(change, one.tokens, diverging=True)
        draw(figure, key="difference_head", name=f"difference-{layer}.{head}")
        st.caption("Red: the other model looks there more. Blue: less. White: alike.")


def draw_history(choice: Choice) -> None:
    """What training saw of the heads at each evaluation, beside the loss."""
    from lab.training.head_watch import TEXT  # asked for: PyTorch is loaded by now

    if choice.run_id is None:
        st.info("This is about runs of your own: choose one on the left, and see its heads form.")
        return
    kind = st.segmented_control(
        "Figure", list(KINDS), format_func=lambda name: KINDS[name], default="induction", required=True,
        key="history_kind", persist_state="session",
    )  # fmt: skip
    frame = state.read(head_history, choice.run_id, kind, TEXT)
    if frame.empty:
        st.info("This run was trained before the lab recorded its heads, or its context is too short for it.")
        return
    frame["name"] = frame["layer"].astype(str) + "." + frame["head"].astype(str)
    table = frame.pivot(index="step", columns="name", values="value")
    rose = (table.max() - table.iloc[0]).sort_values(ascending=False)
    shown = list(rose.index[:6])
    loss = state.read(series, choice.run_id, "val/loss")
    figure = lines({name: table[name] for name in shown}, table.index, x_title="step", y_title=KINDS[kind])
    if choice.step is not None:
        figure.add_vline(x=choice.step, line_dash="dot", annotation_text="shown above")
    draw(figure, key="history", name=f"heads-over-training-{kind}")
    figure = lines(
        {"validation loss": loss["last"]}, loss["step"], x_title="step", y_title="nats per token", height=200
    )
    draw(figure, key="history_loss", name="validation-loss")
    st.caption(
        "At each evaluation the model read random tokens said twice; the six heads that rose most are drawn. Look for "
        "one that jumps, and what the loss does then; set the checkpoint slider to before and after. "
        f"{concept('induction-heads')}"
    )
    export(frame.drop(columns="name"), name=f"head-history-{kind}", key="history_csv")
