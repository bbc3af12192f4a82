"""The list of adapters, exports and captures: what each is, how large, how good; to open and to delete."""

from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from app.ui import words
from app.ui.actions import attempt
from app.ui.finetuning_exports import COLOURS
from app.ui.messages import plain
from app.ui.navigation import link
from app.ui.state import RUN_KEY
from lab.finetuning.outputs import Kind, Output, delete_output, list_outputs

KINDS: dict[Kind, str] = {"adapter": "Adapters", "export": "Exports", "capture": "Captures"}
MOST = 100


def outputs(kinds: Sequence[Kind]) -> list[Output]:
    """The newest of these kinds."""
    return list_outputs(kinds)[:MOST]


def draw_output(one: Output) -> None:
    """One line, and what is behind it."""
    key = str(one.path)
    with st.container(border=True), st.container(horizontal=True, vertical_alignment="center"):
        st.badge(one.kind, color="gray")
        st.markdown(f"**{plain(one.made_by)}** · {plain(one.title)}", width="stretch")
        if one.proof is not None:
            st.badge(one.proof["verdict"], color=COLOURS[one.proof["verdict"]])
        st.markdown(f":gray[{words.data(one.bytes)} · {words.ago(datetime.fromisoformat(one.made_at))}]")
        with st.popover("Open", type="tertiary"):
            _draw_inside(one)
        if one.run_id is not None:
            link("fine_tuning", "Run", **{RUN_KEY: one.run_id})
        if one.kind != "adapter":
            with st.popover("Delete", type="tertiary"):
                st.markdown(f"Delete {words.data(one.bytes)} at {plain(key)} for good?")
                st.button("Delete it", key=f"delete_{key}", on_click=_delete, args=(one,))


def _draw_inside(one: Output) -> None:
    st.caption("Where it lies:")
    st.code(str(one.path), language=None)
    if one.proof is not None:
        st.markdown(plain(one.proof["sentence"]))
        card = one.path / "README.md"
        if card.is_file():
            st.download_button("README card", card.read_bytes(), file_name="README.md", key=f"card_{one.path}")
        st.json(one.proof, expanded=False)
    elif one.kind == "adapter":
        st.caption("As peft writes it. Export it on its run's page to have it compared with the run.")


def _delete(one: Output) -> None:
    attempt(lambda: delete_output(one))
