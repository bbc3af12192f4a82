"""Why do these two runs differ? The settings that differ, the controlled runs there are, and one click for the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import runs_address, state, words
from app.ui.actions import attempt, show_refusals
from app.ui.messages import plain
from app.ui.run_choice import unused
from lab.store import Contrast, contrast, list_runs
from lab.store.cursor import Cursor
from lab.store.settings import ORIGIN, origin_of


def draw_contrast(names: Mapping[str, str]) -> None:
    """The two runs, or two of those compared."""
    ids = list(names)
    if len(ids) > 2:
        st.subheader("Two of them, in detail", anchor=False)
        with st.container(horizontal=True):
            chosen = [_choose(names, side, place) for side, place in (("One", 0), ("The other", len(ids) - 1))]
        if chosen[0] == chosen[1]:
            st.caption("Choose two different runs.")
            return
        ids = chosen
    found = state.read(contrast, *ids)
    differing = [name for name in found.differences if name not in found.inert]
    st.subheader(_headline(differing), anchor=False)
    show_refusals()
    if found.differences:
        st.dataframe(
            pd.DataFrame(
                [
                    {"Setting": said_setting(name), names[ids[0]]: said(name, left), names[ids[1]]: said(name, right)}
                    for name, (left, right) in found.differences.items()
                ]
            ),
            hide_index=True,
            height="content",
        )
    st.caption(_meaning(found, differing))
    if found.neighbours:
        _draw_neighbours(found, names)


def _choose(names: Mapping[str, str], label: str, place: int) -> str:
    key = f"contrast_{place > 0}_{len(names)}"
    if st.session_state.get(key) not in names:
        st.session_state.pop(key, None)
    return st.selectbox(label, list(names), index=place, format_func=lambda run_id: names.get(run_id, run_id), key=key)


def _headline(differing: Sequence[str]) -> str:
    if not differing:
        return "These two have the same settings"
    called = [said_setting(name) for name in differing]
    listed = ", ".join(called[:-1]) + (" and " if len(called) > 1 else "") + called[-1]
    return f"These two differ in {listed}" if len(differing) <= 4 else f"These two differ in {len(differing)} settings"


def said_setting(name: str) -> str:
    """A setting by its name; where a run began is none, and is told in words."""
    return "where they began" if name == ORIGIN else name


def said(name: str, value: Any) -> str:
    """A setting's value; for where a run began the run and the step that it went on from."""
    if name != ORIGIN:
        return words.value(value)
    origin = origin_of({ORIGIN: value})
    return "random weights" if origin is None else f"step {origin[1]:,} of {state.read(name_of, origin[0])}"


def _meaning(found: Contrast, differing: Sequence[str]) -> str:
    if not differing:
        return "What separates their curves is not a setting: nothing that is learned depends on those that differ."
    if differing == ["seed"]:
        return "Only the seed differs: the distance between their curves is what luck alone makes."
    if differing == [ORIGIN]:
        return (
            "Their settings are the same, but they did not begin in the same place: a fork goes on from weights that "
            "another run has learned, with that run's steps and tokens behind them."
        )
    if found.is_controlled:
        return "A controlled comparison: what separates them is this one setting, or luck. Another seed of each tells."
    return (
        "More than one thing changed, so neither can be blamed. A controlled run has all settings of one of the two "
        "but for a single one."
    )


def _draw_neighbours(found: Contrast, names: Mapping[str, str]) -> None:
    """One line per controlled run: those there are, and a button for those that are missing."""
    taken = list(state.read(list_runs)["name"])
    for number, one in enumerate(found.neighbours):
        value = said(one.setting, one.value)
        name = controlled_name(one.setting, value, names[one.of])
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            how = "begun from" if one.setting == ORIGIN else f"with {plain(one.setting)}"
            st.markdown(f"**{plain(names[one.of])}** {how} **{plain(value)}**", width="content")
            if one.run_ids:
                st.markdown(":gray[is there:]", width="content")
                st.button(
                    "Compare the three", key=f"controlled_{number}", type="tertiary",
                    on_click=runs_address.compare, args=([found.left, found.right, one.run_ids[0]],),
                )  # fmt: skip
            elif one.config is None:
                st.markdown(f":gray[cannot be trained: {plain(one.problem)}]", width="content")
            else:
                st.button(
                    "Queue this run", key=f"queue_{number}", on_click=queue,
                    args=(one.config, one.parent, unused(name, taken)),
                    help="Starts it now, or behind the run that is training.",
                )  # fmt: skip


def controlled_name(setting: str, value: str, base: str) -> str:
    return f"{base}, {'from' if setting == ORIGIN else setting} {value}"[:90].replace("/", " ")


def queue(config: Any, parent: tuple[str, int] | None, name: str) -> None:
    """Queue a run, or the fork of a parent's state. For callbacks."""
    engine = state.get_engine()
    run_id = attempt(
        lambda: engine.submit(config, name=name) if parent is None else engine.fork(*parent, config, name=name)
    )
    if run_id is not None:
        st.toast(f"Queued: {plain(name)}")


def name_of(cursor: Cursor, run_id: str) -> str:
    """What a run is called; its id where the record does not know it."""
    found = cursor.execute("SELECT coalesce(name, run_id) FROM runs WHERE run_id = ?", [run_id]).fetchone()
    return str(found[0]) if found else run_id
