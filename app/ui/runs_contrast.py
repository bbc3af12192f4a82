"""Why do these two runs differ? The settings that differ, the controlled runs there are, and one click for the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import runs_address, state, words
from app.ui.actions import attempt, show_refusals
from app.ui.messages import plain
from app.ui.run_choice import unused
from lab.store import Contrast, Neighbour, contrast, list_runs


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
                    {"Setting": name, names[ids[0]]: words.value(left), names[ids[1]]: words.value(right)}
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
    listed = ", ".join(differing[:-1]) + (" and " if len(differing) > 1 else "") + differing[-1]
    return f"These two differ in {listed}" if len(differing) <= 4 else f"These two differ in {len(differing)} settings"


def _meaning(found: Contrast, differing: Sequence[str]) -> str:
    if not differing:
        return "What separates their curves is not a setting: nothing that is learned depends on those that differ."
    if differing == ["seed"]:
        return "Only the seed differs: the distance between their curves is what luck alone makes."
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
        name = controlled_name(one, names[one.of])
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            value = plain(words.value(one.value))
            st.markdown(f"**{plain(names[one.of])}** with {plain(one.setting)} **{value}**", width="content")
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
                    "Queue this run", key=f"queue_{number}", on_click=queue, args=(one.config, unused(name, taken)),
                    help="Starts it now, or behind the run that is training.",
                )  # fmt: skip


def controlled_name(one: Neighbour, base: str) -> str:
    return f"{base}, {one.setting} {words.value(one.value)}"[:90].replace("/", " ")


def queue(config: Any, name: str) -> None:
    """Queue a run. For callbacks."""
    run_id = attempt(lambda: state.get_engine().submit(config, name=name))
    if run_id is not None:
        st.toast(f"Queued: {plain(name)}")
