"""A run, live or past: head, curves, what it writes, a box to try it, and tabs.

Each part is a fragment that looks again by itself while the run lives. The layout is made once per full run
of the page; a poll only puts new numbers and lines into it.
"""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.ui import state
from app.ui.checkpoints import draw_checkpoints
from app.ui.form_settings import use_settings
from app.ui.generation import WRITING_POLL_S, draw_generation, is_writing
from app.ui.live_chart import Look, XKind, live_chart
from app.ui.memory_after import draw_memory_after, draw_out_of_memory
from app.ui.navigation import link
from app.ui.open_links import open_links
from app.ui.polled import LIVE_POLL_S, TEXT_POLL_S, parts_of, polled
from app.ui.run_charts import loss_chart, small_charts
from app.ui.run_details import draw_config, draw_events, draw_sql
from app.ui.run_head import draw_head, live_status, person_guess, vocabulary
from app.ui.samples import draw_samples
from lab import store
from lab.models.checkpoints import list_checkpoints
from lab.rundir import find_run
from lab.store import Cursor

X_CHOICES: tuple[XKind, ...] = ("step", "tokens", "seconds")


def draw_run(run_id: str, *, history: Sequence[str] = ()) -> None:
    """Everything about a run.

    Args:
        history: runs of the past to lay faintly under the loss.
    """
    alive = live_status(run_id) is not None
    part = parts_of(run_id, alive=alive)
    part(_live, LIVE_POLL_S, tuple(history))
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("What it writes", anchor=False)
        st.caption("The same prompt and seed at each evaluation: watch letters become words, and words become verse.")
        part(draw_samples, TEXT_POLL_S)
    with right:
        st.subheader("Try it", anchor=False)
        writing_now = is_writing()
        every = WRITING_POLL_S if writing_now else TEXT_POLL_S if alive else None
        polled(_generation, run_id, writing_now, every=every)
    if not alive:
        draw_out_of_memory(run_id)
        draw_next(run_id)
    tabs = st.tabs(["Checkpoints", "Events", "Settings", "Memory", "Show the SQL"])
    with tabs[0]:
        part(_checkpoints, TEXT_POLL_S)
    with tabs[1]:
        part(draw_events, TEXT_POLL_S)
    with tabs[2]:
        draw_config(run_id, state.read(store.run_row, run_id)["config"])
    with tabs[3]:
        draw_memory_after(run_id)
    with tabs[4]:
        draw_sql(run_id)


def draw_next(run_id: str) -> None:
    """What to try with a run that has ended."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            "What next: change one knob, guess what it does, and lay this run under the new curve. "
            "Or fork a checkpoint below with a smaller learning rate.",
            width="content",
        )
        st.button("Use this run's settings", key=f"next_{run_id}", on_click=use_settings, args=(run_id,))
        if list_checkpoints(find_run(run_id)):
            open_links(run_id)
        link("runs", "Compare runs")


def draw_look() -> Look:
    """How the curves are shown: kept over page switches, the same for all runs."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        x = st.segmented_control(
            "Over", X_CHOICES, default="step", required=True, key="look_x", bind="query-params",
            help="What the x axis counts: updates of the weights, tokens read, or seconds of training.",
        )  # fmt: skip
        logs = st.pills(
            "Logarithmic", ["x", "y"], selection_mode="multi", key="look_log", persist_state="session",
            help="A straight line on both log axes is a power law, which is what loss curves often follow.",
        )  # fmt: skip
        smoothing = st.slider(
            "Smoothing", 0.0, 0.98, 0.8, 0.02, key="look_smoothing", persist_state="session", width=260,
            help="A moving average over neighbouring points; the raw line stays faintly behind. 0 turns it off.",
        )  # fmt: skip
    return Look(x=x or "step", log_x="x" in logs, log_y="y" in logs, smoothing=smoothing)


def with_parent(cursor: Cursor, parent: str | None, history: Sequence[str]) -> list[str]:
    """The runs to lay under the curve: the chosen ones, and a fork's parent, where it came from."""
    known = parent is not None and cursor.execute("SELECT 1 FROM runs WHERE run_id = ?", [parent]).fetchone()
    return [*history, parent] if parent is not None and known and parent not in history else list(history)


def first_prompt(samples: pd.DataFrame) -> str:
    """What the run's own samples start from; a line break before there are any."""
    return "\n" if samples.empty else str(samples["prompt"].iloc[0])


def _live(run_id: str, history: Sequence[str]) -> None:
    with state.cursor() as cursor:
        draw_head(cursor, run_id)
    look = draw_look()
    with state.cursor() as cursor:
        row = store.run_row(cursor, run_id)
        known = vocabulary(row["config"]) if row["n_params"] else None  # set once the tokenizer was made
        guess = person_guess(store.predictions(cursor, run_id))
        past = with_parent(cursor, row["parent_run_id"], history)
        loss = loss_chart(cursor, run_id, look=look, vocab_size=known, history=past, guess=guess)
        small = small_charts(cursor, run_id, look)
    live_chart(loss, key="chart_loss")
    for column, chart in zip(st.columns(len(small)), small, strict=True):
        with column:
            live_chart(chart, key=f"chart_{chart.title}")


def _generation(run_id: str, writing_when_drawn: bool) -> None:
    if is_writing() != writing_when_drawn:
        st.rerun()  # once: how often to look is chosen on a full run
    opening = first_prompt(state.read(store.samples, run_id))
    draw_generation(run_id, list_checkpoints(find_run(run_id)), opening=opening)


def _checkpoints(run_id: str) -> None:
    draw_checkpoints(run_id, list_checkpoints(find_run(run_id)))
