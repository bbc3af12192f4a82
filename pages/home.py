"""Home: what the lab is, where to start, what was run last, and what this machine is."""

import streamlit as st

from app.ui import state, words
from app.ui.machine import machine
from app.ui.messages import plain
from app.ui.navigation import link
from app.ui.run_table import draw_table
from lab.store import list_runs

SHOWN = 5

st.title("LLM Learning Lab", anchor=False)
st.markdown(
    "Train a small GPT of your own, watch it learn from random numbers to readable text, and keep every run to "
    "compare. Everything stays on this machine."
)
runs = state.read(list_runs, limit=SHOWN)

left, right = st.columns([3, 2], gap="large")
with left:
    st.subheader("Start here", anchor=False)
    if runs.empty:
        st.markdown(
            "1. Open **Pretraining** and press **Start**: the form is filled in for a first run.\n"
            "2. Watch the loss fall, and the samples turn from letters into words into verse.\n"
            "3. Try your model with a prompt of your own, then change one knob and run again."
        )
        link("pretraining", "Train your first GPT")
    else:
        st.markdown("Change one knob, guess what it will do, and run again: that is how one learns what it is for.")
        with st.container(horizontal=True):
            link("pretraining", "Train a model")
            link("runs", "Compare your runs")
with right:
    st.subheader("This machine", anchor=False)
    here = machine()
    st.markdown(
        f"{plain(here.processor)}  \n"
        f"{here.cores} cores, {here.threads} threads · {words.data(here.memory)} memory, "
        f"{words.data(here.memory_free)} free · {words.data(here.disk_free)} of disk free  \n"
        + (f"GPU: {plain('; '.join(here.gpus))}" if here.gpus else "No GPU: the pocket preset is made for this.")
        + f"  \nPyTorch {plain(here.torch)}"
    )
    st.caption("More, with what to do about each: `lab doctor` in a terminal.")

st.subheader("Last runs", anchor=False)
if runs.empty:
    st.caption("None yet.")
else:
    draw_table(runs, key="last_runs")
    link("pretraining", f"Open {plain(runs['name'].iloc[0])}", run=runs["run_id"].iloc[0])
