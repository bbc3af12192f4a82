"""Pretraining: a form on the left, and the run it starts."""

import streamlit as st

from app.ui import state
from app.ui.form_settings import pretraining_form
from app.ui.memory_panel import draw_memory
from app.ui.pretraining_form import Request, draw_form
from app.ui.run_choice import choose_history, choose_run, unused
from app.ui.run_view import draw_run
from app.ui.speeds import measured_runs
from lab.config import PretrainConfig, changed
from lab.rundir import find_run
from lab.store import list_runs


def start(request: Request) -> None:
    """Start or queue what the form says, and show it."""
    engine = state.get_engine()
    if request.parent is None:
        name = unused(request.name, list(everything["name"]))
        run_id = engine.submit(request.config, name=name, prediction=request.prediction)
    else:
        parent, step = request.parent
        kept = find_run(parent).config_as(PretrainConfig)  # its tokenizer goes with it; a form has no such field
        config = changed(request.config, vocab_size=kept.model.vocab_size)
        run_id = engine.fork(parent, step, config, name=request.name, prediction=request.prediction)
    state.show_run(run_id)


everything = state.read(list_runs)
runs = everything[everything["kind"] == "pretrain"]
measured = state.read(measured_runs, runs)
status = state.get_engine().status()
with st.sidebar:
    wanted = draw_form(pretraining_form(), measured=measured, busy=status.running is not None, start=start)

if runs.empty:
    st.title("Pretraining", anchor=False)
    st.markdown(
        "Here you train a GPT of your own: it starts from random numbers and learns, token by token, to continue a "
        "text. The form on the left is filled in for a first run that writes readable Shakespeare within a few minutes."
    )
    st.info("Press **Start** on the left. The curve, and what the model writes, appear here as it learns.")
    draw_memory(wanted, pretraining_form(), expanded=True)
    st.stop()
title, left, right = st.columns([2, 3, 3], vertical_alignment="center")
with title:
    st.title("Pretraining", anchor=False, help="A model starts from random numbers and learns to continue a text.")
with left:
    shown = choose_run(runs, live=status.running.run_id if status.running else None)
with right:
    history = choose_history(runs, shown)
draw_memory(wanted, pretraining_form())
draw_run(shown, history=history)
