"""A fine-tuning run, live or past: head, curves and how to read them, before and after, and what to do with it."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.ui import state
from app.ui.checkpoints import draw_checkpoints
from app.ui.finetuning_adapter import draw_adapter
from app.ui.finetuning_chat import draw_chat
from app.ui.finetuning_curve import draw_reading, readings, with_readings
from app.ui.finetuning_exports import draw_exports
from app.ui.finetuning_plane import draw_plane
from app.ui.live_chart import live_chart
from app.ui.messages import plain
from app.ui.open_links import open_links
from app.ui.polled import LIVE_POLL_S, TEXT_POLL_S, parts_of
from app.ui.run_charts import loss_chart, small_charts
from app.ui.run_details import draw_config, draw_events, draw_sql
from app.ui.run_head import draw_head, live_status
from app.ui.run_view import draw_look
from lab import store
from lab.models.checkpoints import list_checkpoints
from lab.rundir import find_run


def draw_finetuning(run_id: str, *, history: Sequence[str] = ()) -> None:
    """Everything about a run.

    Args:
        history: runs of the past to lay faintly under the loss.
    """
    alive = live_status(run_id) is not None
    part = parts_of(run_id, alive=alive)
    part(_live, LIVE_POLL_S, tuple(history))
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("Before and after", anchor=False)
        part(_answers, TEXT_POLL_S)
    with right:
        st.subheader("Learnt and forgotten", anchor=False)
        part(draw_plane, TEXT_POLL_S)
    view = st.segmented_control(
        "More", VIEWS, default=VIEWS[0], required=True, key="finetuning_view", bind="query-params",
        label_visibility="collapsed",
    )  # fmt: skip
    {
        "Chat": draw_chat,
        "What the adapter did": draw_adapter,
        "Export": draw_exports,
        "Checkpoints": _checkpoints,
        "Events": draw_events,
        "Settings": _settings,
        "Show the SQL": draw_sql,
    }[view or VIEWS[0]](run_id)
    if list_checkpoints(find_run(run_id)):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption("Look inside, with base and fine-tuned to choose from:", width="content")
            open_links(run_id)


VIEWS = ["Chat", "What the adapter did", "Export", "Checkpoints", "Events", "Settings", "Show the SQL"]


def pairs(samples: pd.DataFrame) -> list[tuple[str, str, str, int]]:
    """Each question with the answer before the first step, the newest answer, and the newest step."""
    if samples.empty:
        return []
    found = []
    for question in dict.fromkeys(samples["prompt"]):
        of_question = samples[samples["prompt"] == question].sort_values("step")
        first, last = of_question.iloc[0], of_question.iloc[-1]
        if first["step"] == 0:
            found.append((str(question), str(first["text"]), str(last["text"]), int(last["step"])))
    return found


# -- inside -----------------------------------------------------------------------------------------------


def _live(run_id: str, history: Sequence[str]) -> None:
    with state.cursor() as cursor:
        draw_head(cursor, run_id)
    look = draw_look()
    with state.cursor() as cursor:
        chart = loss_chart(cursor, run_id, look=look, vocab_size=None, history=history)
        small = small_charts(cursor, run_id, look)
        read = readings(cursor, run_id)
    live_chart(with_readings(chart, read, look.x), key="ft_chart_loss")
    draw_reading(read)
    for column, one in zip(st.columns(len(small)), small, strict=True):
        with column:
            live_chart(one, key=f"ft_chart_{one.title}")


def _answers(run_id: str) -> None:
    found = pairs(state.read(store.samples, run_id))
    if not found:
        st.caption("The model is asked before the first step and at each evaluation; its answers appear here.")
        return
    step = found[0][3]
    st.caption(
        f"The same questions, answered by the base model and by its newest state (step {step:,}), always with the "
        "likeliest token. None of these questions is in the training rows."
    )
    for question, before, after, _ in found:
        with st.container(border=True):
            st.markdown(f"**{plain(question)}**")
            left, right = st.columns(2)
            with left:
                st.caption("Base")
                st.markdown(plain(before) or "*nothing*")
            with right:
                st.caption("Fine-tuned" if step else "Fine-tuned: not yet")
                if step:
                    st.markdown(plain(after) or "*nothing*")


def _checkpoints(run_id: str) -> None:
    draw_checkpoints(run_id, list_checkpoints(find_run(run_id)), is_adapter=True)


def _settings(run_id: str) -> None:
    draw_config(run_id, state.read(store.run_row, run_id)["config"])
