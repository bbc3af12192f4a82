"""Probing: what stands in the residual stream, who wrote it, and what it is good for."""

import streamlit as st

from app.ui.captures import draw_keep
from app.ui.looking import ALL_POINTS, ask_for_text, draw_badge, look_at, model_facts, open_model
from app.ui.looking_writes import draw_writing
from app.ui.messages import speaking
from app.ui.model_choice import Choice, choose_model, choose_step, draw_missing
from app.ui.probing_answers import draw_attribution
from app.ui.probing_lens import draw_lens
from app.ui.probing_patching import draw_patching
from app.ui.probing_probes import draw_probes
from app.ui.probing_stream import draw_branches, draw_norms, draw_similarity
from app.ui.words_of_looking import read_more

VIEWS = [
    "What it would say", "Who wrote it", "Length of the stream", "What each layer did", "Where the answer passes",
    "What can be read off", "Alike or not",
]  # fmt: skip


def show(choice: Choice, text: str) -> None:
    """In a function: a page's top-level names live until the process ends, and would hold the model."""
    look = look_at(choice, text, points=ALL_POINTS)
    session = open_model(choice)
    draw_badge(look, model_facts(session), lambda: draw_keep(look, choice))
    choose_step(choice)
    view = st.segmented_control(
        "View", VIEWS, default=VIEWS[0], required=True, key="probing_view", bind="query-params",
        label_visibility="collapsed",
    )  # fmt: skip
    if view == "What it would say":
        draw_lens(look, session)
    elif view == "Who wrote it":
        draw_attribution(look, session)
    elif view == "Length of the stream":
        draw_norms(look)
    elif view == "What each layer did":
        draw_branches(look, choice)
    elif view == "Where the answer passes":
        draw_patching(session, choice)
    elif view == "What can be read off":
        draw_probes(session, choice)
    else:
        draw_similarity(look, choice)
    draw_writing(choice)
    read_more("residual-stream", "lenses-and-probes")


with st.sidebar:
    choice = choose_model()
st.title(
    "Probing", anchor=False, help="The stream of vectors that runs through the model: what it holds at each layer."
)
if choice is None:
    draw_missing()
    st.stop()
text = ask_for_text()
if text is None:
    st.markdown(
        "See what the model would say after each layer, which part wrote what, and what can be read off its layers."
    )
    st.stop()
with speaking():
    show(choice, text)
