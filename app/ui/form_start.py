"""What both forms say about starting: the button, and the notice of a fork."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from app.ui.messages import plain
from lab.rundir import find_run


def draw_start(
    *, key: str, busy: bool, is_fork: bool, disabled: bool, on_click: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """The form's primary button.

    Args:
        busy: something is running, so that the run goes into the queue.
    """
    st.button(
        "Add to the queue" if busy else "Start the fork" if is_fork else "Start",
        type="primary",
        width="stretch",
        disabled=disabled,
        key=key,
        on_click=on_click,
        args=args,
        help="Something is running; this run starts when those before it are done." if busy else None,
    )


def draw_fork_notice(fork_key: str, *, stays: str, instead: str, end: Callable[[], None]) -> None:
    """Says that the form is a fork, and lets go of it.

    Args:
        fork_key: session key of (run id, step); absent when the form starts afresh.
        stays: what of the parent cannot be changed.
        instead: what the button says that lets go.
    """
    if fork_key not in st.session_state:
        return
    run_id, step = st.session_state[fork_key]
    st.info(
        f"Fork of {plain(find_run(run_id).info()['name'])} from step {step:,}. Change what you like below; {stays} "
        "stay the parent's."
    )
    st.button(instead, on_click=end, type="tertiary")
