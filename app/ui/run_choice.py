"""Choosing runs from the list: the one to look at, and those of the past to compare with."""

from collections.abc import Collection
from itertools import count

import pandas as pd
import streamlit as st

from app.ui import state


def run_label(run_id: str, name: str) -> str:
    """A run in a list: its name, and the beginning and end of its id, which say when and make it unlike others.

    Nothing that changes may stand in it: Streamlit knows a choice by its text.
    """
    parts = run_id.split("-")
    if [len(part) for part in parts] != [8, 6, 4]:
        return f"{name} · {run_id}"  # it came from elsewhere, with an id of its own
    day, time, ending = parts
    return f"{name} · {day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]} · {ending}"


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number when another run has it already."""
    numbered = (f"{name} {number}" for number in count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def choose_run(runs: pd.DataFrame, *, live: str | None) -> str:
    """The run to show: what the address or the person chose, else the live one, else the newest."""
    labels = run_labels(runs)
    wanted = (state.wanted_run(), live, *labels)
    shown = next(run_id for run_id in wanted if run_id in labels)
    st.session_state[_PICK] = shown  # a link or Start may have chosen another than the list shows
    st.selectbox(
        "Run",
        list(labels),
        format_func=lambda run_id: labels.get(run_id, run_id),
        key=_PICK,
        on_change=_picked,
        label_visibility="collapsed",
    )
    return shown


def choose_history(runs: pd.DataFrame, shown: str) -> list[str]:
    """Runs of the past to lay faintly under the curve."""
    labels = {run_id: label for run_id, label in run_labels(runs).items() if run_id != shown}
    chosen = st.multiselect(
        "Compare with",
        list(labels),
        format_func=lambda run_id: labels.get(run_id, run_id),
        key="history",
        persist_state="session",
        placeholder="Lay past runs faintly under the curve",
        help="Their validation loss. Nats per token compare only between runs with the same tokenizer.",
        label_visibility="collapsed",
    )
    return [run_id for run_id in chosen if run_id in labels]


def run_labels(runs: pd.DataFrame) -> dict[str, str]:
    """How each run is shown, by id, in the order given."""
    return {run_id: run_label(run_id, name) for run_id, name in zip(runs["run_id"], runs["name"], strict=True)}


_PICK = "run_pick"


def _picked() -> None:
    state.show_run(st.session_state[_PICK])
