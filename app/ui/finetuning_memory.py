"""The memory of the run that the form would start: one step replayed, laid beside this machine and 16 GB."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import altair as alt
import pandas as pd
import streamlit as st

from app.ui import words
from app.ui.finetuning_preview import preview_of
from app.ui.finetuning_settings import finetuning_form
from app.ui.forecasts import TARGETS, Look, get_forecasts, look_at_finetuning
from app.ui.memory_figure import step_figure
from app.ui.memory_panel import POLL_S, TAB_KEY, draw_side, text_colour, verdict_said
from app.ui.messages import speaking
from app.ui.polled import polled
from app.ui.state import get_engine
from lab.config import FineTuneConfig
from lab.errors import LabError
from lab.finetuning.batches import Extent, pack
from lab.finetuning.examples import Example

if TYPE_CHECKING:
    from lab.forecast.answers import Answer, Target
    from lab.forecast.finetune_config import FineTuneNeed
    from lab.training.memory import Change

NAMES = {
    "weights": "weights",
    "quantisation_state": "scales of packed weights",
    "adapters": "adapter",
    "optimizer": "optimizer",
    "gradients": "gradients",
    "activations": "activations",
    "weight_copies": "copies of weights",
    "logits": "scores over the vocabulary",
    "temporary": "temporary",
}
"""Kinds of memory as a person says them."""


OPEN_KEY = "ft_memory_open"


def draw_memory(config: FineTuneConfig | None) -> None:
    """The fold: what the run would need, and what would fit instead."""
    if config is None:
        return
    fold = st.expander("Memory before you start", icon=":material/memory:", key="ft_memory", on_change="rerun")
    st.session_state[OPEN_KEY] = fold.open
    with fold, speaking():
        look = look_at_finetuning(config, extent_of(config))
        answer = _ask(look)
        with st.container():
            if fold.open:
                _draw(answer, config)
        is_known, is_done = answer is not None, answer is not None and answer.is_done
        waits = not (is_done if fold.open else is_known)
        # Always there, so that the same things stand in the same place; it looks again only while it has to.
        polled(_wait, look, is_known, is_done, every=POLL_S if waits else None)


def draw_verdict(config: FineTuneConfig) -> None:
    """One line for the sidebar. It does not look again by itself: the fold does."""
    try:
        extent = extent_of(config)
    except LabError:  # said where the rows are shown
        return
    answer = _ask(look_at_finetuning(config, extent))
    if answer is None:
        st.caption("**Memory** computing …")
    elif answer.sides:
        st.caption(verdict_said(answer))


def extent_of(config: FineTuneConfig) -> Extent | None:
    """Of the sequences that the rows make; None where there are none."""
    rows = [_cut(row, config.data.max_length) for row in preview_of(config).examples]
    if not rows:
        return None
    return Extent.of(pack(rows, config.data.max_length) if config.data.packing else [(row,) for row in rows])


def parts_figure(need: "FineTuneNeed") -> alt.Chart:
    """What the peak is spent on."""
    parts = [(NAMES.get(kind, kind), size) for kind, size in need.kinds.items() if size]
    if need.checkpoint_bytes:
        parts.append(("copy for a checkpoint", need.checkpoint_bytes))
    parts += [(f"{part.name} (modelled)", part.bytes) for part in need.modelled]
    data = pd.DataFrame(parts, columns=["part", "bytes"]).assign(GiB=lambda table: table["bytes"] / 2**30)
    return (
        alt.Chart(data)
        .mark_bar()
        .encode(
            alt.X("GiB:Q", title="GiB at the peak"),
            alt.Y("part:N", title=None, sort="-x", axis=alt.Axis(labelLimit=240)),
            tooltip=["part", alt.Tooltip("GiB:Q", format=".3f")],
        )
        .properties(height=alt.Step(22))
    )


# -- inside -----------------------------------------------------------------------------------------------


def _ask(look: Look) -> "Answer | None":
    tab = st.session_state.setdefault(TAB_KEY, uuid4().hex)
    in_full = st.session_state.get(OPEN_KEY, False) or not get_engine().is_training
    return get_forecasts().ask(tab, look, in_full=in_full)


def _wait(look: Look, was_known: bool, was_done: bool) -> None:
    answer = _ask(look)
    if answer is not None and (answer.is_done != was_done or not was_known):
        st.rerun()


def _draw(answer: "Answer | None", config: FineTuneConfig) -> None:
    if answer is None:
        st.caption("Computing: one training step is replayed without weights and without memory.")
        return
    if answer.error:
        st.warning(answer.error)
        return
    for column, (name, side) in zip(st.columns(2), answer.sides.items(), strict=True):
        with column:
            draw_side(name, side)
    for target, changes in (answer.changes or {}).items():
        if not answer.sides[target].verdict.fits:
            _draw_changes(target, changes)
    found = cast("FineTuneNeed", answer.sides["here"].forecast)
    st.altair_chart(step_figure(found, answer.sides["here"].verdict.budget, text_colour()), width="stretch")
    st.caption(
        f"One training step from left to right, with {config.train.batch_size:,} sequences of {found.extent.tokens:,} "
        f"tokens side by side, of which {found.extent.labels:,} are learnt: the longest rows decide. The most tensors "
        f"are alive in {found.peak.sentence}. Below, what that moment is spent on. {' '.join(found.notes)}"
    )
    st.altair_chart(parts_figure(found), width="stretch")
    st.caption(
        "To save: a smaller batch with more accumulation, gradient checkpointing, 4 bits (qlora), a shorter length. "
        f"Modelled, not replayed: {', '.join(f'{part.name} {words.data(part.bytes)}' for part in found.modelled)}."
    )


def _draw_changes(target: "Target", changes: "Sequence[Change]") -> None:
    name = TARGETS[target]
    st.markdown(f"**Fit me** · {name[0].lower()}{name[1:]}")
    if not changes:
        st.caption("None of the usual savings is enough: take a smaller model.")
    for number, change in enumerate(changes):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(change.sentence, width="stretch")
            st.button(
                "Use", key=f"ft_fit_{target}_{number}", on_click=finetuning_form().fill, args=(change.changes,),
                help="Puts this into the form.",
            )  # fmt: skip


def _cut(row: Example, tokens: int) -> Example:
    """As far as it is read."""
    return Example(row.ids[:tokens], row.learn[:tokens], row.row)
