"""Bringing a model to this machine from a page: size and free disk first, then a thread that goes on by itself."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from app.ui import words
from app.ui.messages import plain, show_error
from app.ui.polled import polled
from lab.errors import LabError
from lab.models.registry import ModelEntry

if TYPE_CHECKING:
    from lab.models.pull import PullPlan

POLL_S = 1.0


@dataclass
class Pull:
    """One pull that goes on. A thread writes, pages read."""

    plan: "PullPlan"
    what: str = "starting"
    done: int = 0
    total: int = 1
    error: LabError | None = None
    thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def is_going_on(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


@st.cache_resource(show_spinner=False)
def _pulls() -> dict[str, Pull]:
    """Pulls of this process, by the model's name; every tab sees the same."""
    return {}


def offer_pull(entry: ModelEntry) -> None:
    """What a pull takes, the button, and how far it is. Draws again by itself once the model is here."""
    pull = _pulls().get(entry.name)
    if pull is not None and pull.is_going_on:
        polled(_watch, entry.name, every=POLL_S)
        return
    size = f" ({words.data(entry.memory['bf16'])} of weights in bf16)" if entry.memory else ""
    st.info(
        f"{plain(entry.name)}{size} is not on this machine yet. {plain(entry.description)} "
        f"Licence: {plain(entry.licence)}."
    )
    if pull is not None and pull.error is not None:
        show_error(pull.error)
    if st.button("See what it takes", key="pull_plan"):
        with st.spinner("Asking where it comes from …"):
            _plan(entry)
    plan = st.session_state.get(_PLAN)
    if isinstance(plan, LabError):
        show_error(plan)
    elif plan is not None and plan.entry.name == entry.name:
        st.markdown(plain(plan.sentence))
        if not plan.fits:
            st.error("There is not enough room for it: free some space, or set LAB_MODEL_CACHE to another disk.")
        st.button("Pull it", type="primary", key="pull", disabled=not plan.fits, on_click=start, args=(plan,))


_PLAN = "pull_plan_of"


def _plan(entry: ModelEntry) -> None:
    from lab.models.pull import plan_pull

    try:
        st.session_state[_PLAN] = plan_pull(entry)
    except LabError as error:
        st.session_state[_PLAN] = error


def start(plan: "PullPlan") -> None:
    """Pull in a thread of its own: a click elsewhere or a page switch does not break it off. For callbacks."""
    from lab.models.pull import pull

    going_on = Pull(plan)

    def tell(what: str, done: int, total: int) -> None:
        going_on.what, going_on.done, going_on.total = what, done, total

    def work() -> None:
        try:
            pull(plan, tell)
        except LabError as error:
            going_on.error = error

    going_on.thread = threading.Thread(target=work, name=f"pull {plan.entry.name}", daemon=True)
    _pulls()[plan.entry.name] = going_on
    going_on.thread.start()


def _watch(name: str) -> None:
    pull = _pulls()[name]
    if not pull.is_going_on:
        st.rerun()  # it is here, or it failed: the page chooses what to draw
    share = min(1.0, pull.done / max(pull.total, 1))
    size = f", {words.data(pull.done)} of {words.data(pull.total)}" if pull.total > 1 else ""
    st.progress(share, text=f"Pulling {plain(name)}: {plain(pull.what)}{size}")
    st.caption("It goes on while you do something else. Cut off, it continues where it was.")
