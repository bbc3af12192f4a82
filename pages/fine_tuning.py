"""Fine-tuning: a form on the left, what the model will see, and the run it starts."""

import streamlit as st

from app.ui import state
from app.ui.finetuning_form import Request, draw_form, missing_model
from app.ui.finetuning_memory import draw_memory
from app.ui.finetuning_preview import draw_preview
from app.ui.finetuning_settings import finetuning_form
from app.ui.finetuning_view import draw_finetuning
from app.ui.forecasts import get_forecasts
from app.ui.model_pull import offer_pull
from app.ui.run_choice import choose_history, choose_run, unused
from lab.store import list_runs

HELP = "A model that can read and write already learns a behaviour from a few hundred examples."


def start(request: Request) -> None:
    """Start or queue what the form says, and show it."""
    engine = state.get_engine()
    if request.parent is None:
        run_id = engine.submit(request.config, name=unused(request.name, list(everything["name"])))
    else:
        run_id = engine.fork(*request.parent, request.config, name=request.name)
    state.show_run(run_id)


get_forecasts().prepare()
everything = state.read(list_runs)
runs = everything[everything["kind"] == "finetune"]
status = state.get_engine().status()
with st.sidebar:
    wanted = draw_form(finetuning_form(), busy=status.running is not None, start=start)

missing = missing_model(wanted) if wanted is not None else None
if runs.empty:
    st.title("Fine-tuning", anchor=False)
    st.markdown(
        "Here you change what a real language model does: it learns a behaviour from a few hundred examples, you see "
        "what that cost it, and you take the result along with a proof. The form on the left is filled in for a first "
        "run of a few minutes."
    )
    if missing is not None:
        offer_pull(missing)
    else:
        st.info("Look at what the model will see below, then press **Start** on the left.")
        draw_preview(wanted, expanded=True)
        draw_memory(wanted)
    st.stop()
title, left, right = st.columns([2, 3, 3], vertical_alignment="center")
with title:
    st.title("Fine-tuning", anchor=False, help=HELP)
with left:
    shown = choose_run(runs, live=status.running.run_id if status.running else None)
with right:
    history = choose_history(runs, shown)
if missing is not None:
    offer_pull(missing)
else:
    draw_preview(wanted)
    draw_memory(wanted)
draw_finetuning(shown, history=history)
