"""Letting the model that is looked at write: the engine writes, so a long text outlives clicks and page switches."""

import streamlit as st

from app.ui import generation
from app.ui.looking import DEFAULT_TEXT, TEXT_KEY
from app.ui.model_choice import Choice
from app.ui.polled import polled


def draw_writing(choice: Choice) -> None:
    """A fold with a prompt, the sampling knobs, and the text as it comes."""
    writing = generation.is_writing()
    with st.expander("Generate: let this model write", expanded=generation.current() is not None):
        polled(_draw, choice, writing, every=generation.WRITING_POLL_S if writing else None)


def _draw(choice: Choice, writing_when_drawn: bool) -> None:
    writing = generation.is_writing()
    if writing != writing_when_drawn:
        st.rerun()  # once: how often to look is chosen on a full run
    prompt = st.text_area(
        "Prompt", value=st.session_state.get(TEXT_KEY, DEFAULT_TEXT), key="looking_prompt", height=80,
        persist_state="session", help="The model goes on from here, as it stands: no chat frame is put around it.",
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        temperature = st.slider(
            "Temperature", 0.0, 2.0, 0.8, 0.05, key="looking_temperature", persist_state="session", width=260,
            help="Below 1 it keeps to what it is sure of, above 1 it dares more. 0: always the likeliest token.",
        )  # fmt: skip
        sampling = generation.draw_more()
        asked = (choice.ref, prompt, {"temperature": temperature, **sampling}, choice.precision)
        st.button(
            "Generate", type="primary", key="looking_generate", disabled=writing, on_click=generation.begin, args=asked
        )
        if writing:
            st.button("Stop", key="looking_stop", on_click=generation.stop)
    generation.draw_text()
