"""Two models on the same text: which heads differ most. And one model over its training: when did a head form?"""

from dataclasses import replace

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app.ui import state
from app.ui.attention_heads import KINDS, draw_weights, matrix_frame, select_head, selected_head
from app.ui.captures import choose_stored
from app.ui.heatmaps import draw, layer_heatmap, lines
from app.ui.looking import Look, look_at
from app.ui.messages import plain, speaking
from app.ui.model_choice import Choice, choices, other_choice
from app.ui.show_sql import show_sql
from app.ui.words_of_looking import concept, export
from lab.store import series
from lab.store.looks import head_history

LISTED = 12
SOURCES = ["A model or step", "A stored capture"]
OTHER_KEY = "other"
"""Query parameter: the model to compare with."""


def draw_compare(look: Look, choice: Choice) -> None:
    """Choose another model or checkpoint; the same text; the difference of every head."""
    layer, _ = selected_head(look.capture.n_layers, look.n_heads)
    with speaking():
        second = choose_second(look, choice, layer=layer)
        if second is not None:
            _draw_difference(look, second)


def choose_second(look: Look, choice: Choice, *, points: tuple[str, ...] = (), layer: int | None = None) -> Look | None:
    """What is laid beside a look: another model or step that reads the same text now, or a stored capture of it; None,
    with a sentence, when that is none.

    Args:
        points, layer: as in `look_at`.

    Raises:
        LabError: the other model cannot be opened, or the capture is damaged.
    """
    source = st.segmented_control(
        "Beside it", SOURCES, default=SOURCES[0], required=True, key="second_source", persist_state="session",
        help="Two models that do not fit into memory together: keep a capture of the first, open the second.",
    )  # fmt: skip
    if source != SOURCES[0]:
        return choose_stored(look)
    other = choose_other(choice)
    return None if other is None else look_at(other, look.text, points=points, layer=layer)


def choose_other(choice: Choice) -> Choice | None:
    """Another model or step; None, with a sentence, when that is none."""
    labels = choices(only_here=True)
    labels.setdefault(choice.model, choice.name)  # a folder of one's own is in no list
    if choice.base is not None and not choice.without_adapter:
        labels = {choice.base: f"{choice.base}, its base"} | labels
    left, right = st.columns(2)
    with left:
        before = st.query_params.get(OTHER_KEY) or st.session_state.get(OTHER_KEY)
        first = choice.base if choice.base is not None and not choice.without_adapter else choice.model
        st.session_state["other_pick"] = before if before in labels else first
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
    if other is not None and picked in (choice.base, choice.model):
        other = replace(other, precision=choice.precision)  # one load serves both
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
    if one.is_whole and two.is_whole:
        difference = head_difference(one.capture.attention, two.capture.attention).cpu().numpy()
    else:
        difference = _kept_difference(one, two)
        st.caption("Of a long text the weights of one layer's heads are kept, so those are compared.")
    left, right = st.columns([5, 7], gap="medium")
    with left:
        st.markdown("**How much each head changed**, in bits")
        figure = layer_heatmap(difference, range(difference.shape[1]), unit="bits", low=0.0)
        draw(figure, key="difference", name=f"difference-{one.file_name}-{two.file_name}")
        st.caption(
            "Jensen–Shannon difference of the two patterns, mean over the text: 0 the same, 1 nothing in common. "
            f"Largest first below. {concept('attention')}"
        )
        order = np.argsort(-np.nan_to_num(difference, nan=-1.0), axis=None)[:LISTED]
        order = order[np.isfinite(difference.ravel()[order])]
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
        file = f"difference-{one.file_name}-{two.file_name}-{layer}.{head}"
        draw_weights(change, one, key="difference_head", name=file, diverging=True)
        st.caption("Red: the other model looks there more. Blue: less. White: alike.")
        export(lambda: matrix_frame(change, one.tokens), name=file, key="difference_head_csv")


def _kept_difference(one: Look, two: Look) -> NDArray[np.float64]:
    """As `head_difference`, of the heads whose weights both keep; NaN for the others: [layer, head]."""
    from lab.analysis.heads import jensen_shannon
    from lab.errors import ModelError

    found = np.full((one.capture.n_layers, one.n_heads), np.nan)
    for layer, head in set(one.kept_heads) & set(two.kept_heads):
        weights = [look.capture.pattern(layer, head).cpu() for look in (one, two)]
        found[layer, head] = float(jensen_shannon(*weights).mean())
    if np.isnan(found).all():
        raise ModelError("The two have no head whose weights both keep: choose a head of the same layer in both.")
    return found


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
    export(loss, name="validation-loss", key="history_loss_csv")
    st.caption(
        "At each evaluation the model read random tokens said twice; the six heads that rose most are drawn. Look for "
        "one that jumps, and what the loss does then; set the checkpoint slider to before and after. "
        f"{concept('induction-heads')}"
    )
    export(frame.drop(columns="name"), name=f"head-history-{kind}", key="history_csv")
    show_sql(frame.attrs["sql"])
