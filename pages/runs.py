"""Runs: the list of all runs, one to open, several to lay over each other."""

import streamlit as st

from app.ui import runs_address, state
from app.ui.navigation import link
from app.ui.run_page import draw_run_page
from app.ui.runs_actions import draw_undo
from app.ui.runs_compare import draw_comparison
from app.ui.runs_list import draw_list, is_empty
from app.ui.runs_search import draw_search

if run_id := runs_address.opened():
    draw_run_page(run_id)
    st.stop()
if run_ids := runs_address.compared():
    draw_comparison(run_ids)
    st.stop()

st.title("Runs", anchor=False)
if state.read(is_empty):
    st.markdown("Every run that this lab keeps is listed here, to open and to compare.")
    st.info("There are no runs yet.")
    link("pretraining", "Train your first GPT")
    st.stop()
st.markdown("Every run that this lab has kept. Mark one to open it, several to lay them beside each other.")
draw_undo()
draw_list(draw_search())
