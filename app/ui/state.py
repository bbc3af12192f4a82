"""What outlives a rerun: the one engine of the process, and what this person is looking at."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from lab.store.cursor import Cursor

if TYPE_CHECKING:
    from lab.engine import Engine

Answer = TypeVar("Answer")

RUN_KEY = "run"
"""Query parameter, and session key for when one comes back from another page: the run that is looked at."""

LIVE = ("running", "paused", "queued")
"""Statuses of a run that still moves, or will."""

FORK_KEY = "fork"
"""Session key: (run id, step) of the checkpoint that the form is a fork of; absent when it starts afresh."""


@st.cache_resource(show_spinner=False)
def get_engine() -> "Engine":
    """The engine: one for all tabs and pages. The body stays this one line, so that it is never made twice."""
    return start_engine()


def start_engine() -> "Engine":
    """Start the engine on LAB_HOME.

    Raises:
        LabError: the record cannot be opened, for example because another process owns it.
    """
    from lab.engine import Engine

    return Engine.start()


def cursor() -> Cursor:
    """A cursor of this thread's own, for one look at the record."""
    return get_engine().cursor()


def read(query: Callable[..., Answer], *args: Any, **options: Any) -> Answer:
    """Ask the record one question: `read(list_runs, limit=5)`.

    For pages, whose top-level names live until the process ends: a cursor among them would outlive the database.
    """
    with cursor() as one:
        return query(one, *args, **options)


def show_run(run_id: str) -> None:
    """Make the Pretraining page show this run, also after a reload and a page switch. For callbacks."""
    st.query_params[RUN_KEY] = run_id
    st.session_state[RUN_KEY] = run_id


def wanted_run() -> str | None:
    """The run that the address names, else the one looked at before; None follows what is live."""
    named = st.query_params.get(RUN_KEY)
    if named is not None:
        st.session_state[RUN_KEY] = named
    return st.session_state.get(RUN_KEY)
