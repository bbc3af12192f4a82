"""Attention: what each head of a model looks at while it reads a text."""

import streamlit as st

from app.ui.attention_compare import draw_compare, draw_history
from app.ui.attention_heads import draw_heads, draw_kinds, draw_tokens, selected_head
from app.ui.attention_more import draw_ablation, draw_rollout
from app.ui.captures import draw_keep
from app.ui.looking import ask_for_text, draw_badge, look_at, model_facts, open_model
from app.ui.looking_writes import draw_writing
from app.ui.messages import speaking
from app.ui.model_choice import Choice, choose_model, choose_step, draw_missing
from app.ui.words_of_looking import read_more

VIEWS = ["Kinds of heads", "Over training", "Compare", "Switch heads off", "Rollout"]


def show(choice: Choice, text: str) -> None:
    """In a function: a page's top-level names live until the process ends, and would hold the model."""
    session = open_model(choice)
    layer, _ = selected_head(session.anatomy.n_layers, session.anatomy.n_heads)
    look = look_at(choice, text, layer=layer)
    draw_badge(look, model_facts(session), lambda: draw_keep(look, choice))
    choose_step(choice)
    draw_tokens(look)
    draw_heads(look, session.anatomy.n_kv_heads)
    view = st.segmented_control(
        "More", VIEWS, default=VIEWS[0], required=True, key="attention_view", bind="query-params",
        label_visibility="collapsed",
    )  # fmt: skip
    if view == "Kinds of heads":
        draw_kinds(look)
    elif view == "Over training":
        draw_history(choice)
    elif view == "Compare":
        draw_compare(look, choice)
    elif view == "Switch heads off":
        draw_ablation(look, session)
    else:
        draw_rollout(look)
    draw_writing(choice)
    read_more("attention", "induction-heads")


with st.sidebar:
    choice = choose_model()
st.title("Attention", anchor=False, help="Each head mixes earlier tokens into each place: here you see which, and why.")
if choice is None:
    draw_missing()
    st.stop()
text = ask_for_text()
if text is None:
    st.markdown("See which earlier tokens each head of this model looks at, how heads differ, and what they are for.")
    st.stop()
with speaking():
    show(choice, text)
