"""Parts of a page that look again by themselves."""

from collections.abc import Callable

import streamlit as st

LIVE_POLL_S = 3.0
"""Head and curves. Each poll costs the training thread a moment, so there is one for both."""
TEXT_POLL_S = 9.0
"""Samples, checkpoints, events: they change at evaluations only."""


def polled(draw: Callable[..., None], *args: object, every: float | None) -> None:
    """Draw a part of the page as a fragment, in a place of its own that a poll cannot take away.

    When a poll begins, Streamlit drops what the last full run has queued for that fragment and not sent yet, the
    fragment's own container among it (`ForwardMsgQueue.clear`): what stands behind it would then arrive with a gap
    before it, which the browser refuses ("Bad delta path index"). The container made here belongs to the page, not to
    the fragment, so it always arrives, and the fragment is alone in it.

    Args:
        every: seconds between two looks; None: only when something inside is clicked.
    """
    with st.container():
        st.fragment(draw, run_every=every)(*args)


def parts_of(run_id: str, *, alive: bool) -> Callable[..., None]:
    """Draws parts of a run's page: `part(draw, every, *more)` calls draw(run_id, *more), again each `every` seconds
    while the run is alive."""

    def part(draw: Callable[..., None], every: float, *more: object) -> None:
        polled(draw, run_id, *more, every=every if alive else None)

    return part
