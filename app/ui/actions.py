"""Buttons that ask the engine for something. What it answers with an error is said at the next draw."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.ui.messages import sentences, show_mistakes
from app.ui.state import get_engine
from lab.errors import LabError

_MISTAKES = "action_mistakes"


@dataclass(frozen=True)
class Action:
    """A button for a run: its label, the engine's method, an icon, and what it does in a sentence."""

    label: str
    method: str
    icon: str
    help: str
    primary: bool = False


PAUSE = Action("Pause", "pause", "pause", "Holds the training after the current micro-step; memory stays taken.")
GO_ON = Action("Resume", "unpause", "play_arrow", "Goes on where it was paused.", primary=True)
RESUME = Action(
    "Resume", "resume", "play_arrow", "Goes on from its newest state, as if it had never stopped.", primary=True
)
STOP = Action("Stop", "stop", "stop", "Ends the run and writes its final checkpoint. It can be resumed later.")
SAVE = Action("Save now", "save", "save", "Writes a checkpoint of this moment that stays.")
CANCEL = Action("Take out of the queue", "cancel", "close", "The run is not started; its settings stay in the list.")

ACTIONS: dict[str, tuple[Action, ...]] = {
    "running": (PAUSE, STOP, SAVE),
    "paused": (GO_ON, STOP, SAVE),
    "queued": (CANCEL,),
    "interrupted": (RESUME,),
    "stopped": (RESUME,),
    "failed": (RESUME,),
    "finished": (),
}
"""What can be asked of a run in each status."""


def draw_actions(
    run_id: str, status: str, *, place: str, only: tuple[Action, ...] | None = None, quiet: bool = False
) -> None:
    """The buttons of a run.

    Args:
        place: told apart from the same buttons elsewhere on the page.
        only: leave out the others.
        quiet: without frames, for a line of text.
    """
    for action in ACTIONS.get(status, ()):
        if only is None or action in only:
            pressed = st.button(
                action.label,
                icon=f":material/{action.icon}:",
                help=action.help,
                type="tertiary" if quiet else "primary" if action.primary else "secondary",
                key=f"{place}_{action.method}_{run_id}",
                on_click=ask,
                args=(action.method, run_id),
            )
            if pressed:
                st.rerun()  # the whole page: buttons, form and lists follow, not only the part that polls


def ask(method: str, *args: Any) -> None:
    """Call a method of the engine. For callbacks."""
    attempt(lambda: getattr(get_engine(), method)(*args))


def attempt(call: Callable[[], Any]) -> Any:
    """Do something that may raise a LabError; the sentence is kept for `show_refusals`."""
    try:
        return call()
    except LabError as error:
        st.session_state.setdefault(_MISTAKES, []).extend(sentences(error))
        return None


def show_refusals() -> None:
    """What the engine said no to since the last draw."""
    show_mistakes(st.session_state.pop(_MISTAKES, []))
