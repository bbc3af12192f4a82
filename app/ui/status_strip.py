"""One line at the top of every page: what is running, how far it is, and what waits."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.ui import words
from app.ui.actions import GO_ON, PAUSE, STOP, ask, draw_actions, show_refusals
from app.ui.messages import plain
from app.ui.navigation import link
from app.ui.polled import polled
from app.ui.state import get_engine

if TYPE_CHECKING:
    from lab.engine import EngineStatus, RunStatus

BUSY_POLL_S = 3.0
IDLE_POLL_S = 3.0
"""Also without a run of our own: one may start from the command line."""


def status_strip() -> None:
    """Draw the strip; it looks again by itself."""
    status = get_engine().status()
    busy = bool(status.running or status.others)
    polled(_poll, fingerprint(status), every=BUSY_POLL_S if busy else IDLE_POLL_S)
    with st.container():  # there with nothing in it too: what stands below keeps its place
        show_refusals()
        for notice in get_engine().notices:
            st.warning(plain(notice))


def _poll(drawn: tuple[Any, ...]) -> None:
    status = get_engine().status()
    if fingerprint(status) != drawn:
        st.rerun()  # once: pages choose what to draw, and how often to look, by what is running
    with st.container(key="status_strip", horizontal=True, vertical_alignment="center", gap="small"):
        waiting = status.others or status.queue
        shown = status.running or (waiting[0] if waiting else None)
        if shown is None:
            _draw_idle()
        else:
            _draw_run(shown, status)


def _draw_idle() -> None:
    st.markdown(":gray[Nothing is running.]", width="content")
    link("pretraining", "Train a model")


def _draw_run(run: "RunStatus", status: "EngineStatus") -> None:
    starting = run.status == "queued"
    st.badge("starting" if starting else run.status, color="green" if run.status == "running" else "gray")
    st.markdown(f"**{plain(run.name)}** · {progress_words(run)}", width="content")
    st.progress(share(run), width=160)
    draw_actions(run.run_id, run.status, place="strip", only=(PAUSE, GO_ON, STOP), quiet=True)
    if run in status.others:
        st.caption("started outside the app", width="content")
    if status.queue:
        with st.popover(f"{len(status.queue)} waiting", type="tertiary"):
            for place, waiting in enumerate(status.queue):
                draw_waiting(waiting, place)
    link("pretraining", "Open", run=run.run_id)


def draw_waiting(run: "RunStatus", place: int) -> None:
    """A run in the queue, at its place counted from 0."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(plain(run.name), width="content")
        earlier = st.button(
            "Earlier",
            key=f"queue_up_{run.run_id}",
            disabled=place == 0,
            on_click=ask,
            args=("move", run.run_id, place - 1),
            help="Let it start before the run above it.",
        )
        if earlier:
            st.rerun()
        draw_actions(run.run_id, "queued", place="queue")


def fingerprint(status: "EngineStatus") -> tuple[Any, ...]:
    """What a page is laid out by; numbers that only move are not in it."""
    live = [run for run in (status.running, *status.others) if run is not None]
    return (
        tuple((run.run_id, run.status) for run in live),
        tuple(run.run_id for run in status.queue),
    )


def share(run: "RunStatus") -> float:
    """How much of the run is done, from 0 to 1."""
    if not run.total_steps:
        return 0.0
    return min(1.0, max(0.0, run.step / run.total_steps))


def progress_words(run: "RunStatus") -> str:
    """step 1,240 of 2,000 · validation 1.94 · 38 s left."""
    of = f" of {run.total_steps:,}" if run.total_steps else ""
    parts = [f"step {run.step:,}{of}"]
    if run.val_loss is not None:
        parts.append(f"validation {words.loss(run.val_loss)}")
    if run.seconds_left is not None and run.status == "running":
        parts.append(f"{words.duration(run.seconds_left)} left")
    return " · ".join(parts)
