"""The entry of the app: the list of pages, and the status strip at the top of each."""

import streamlit as st

from app.ui.layout import page_styles
from app.ui.messages import show_error
from app.ui.navigation import pages
from app.ui.state import get_engine
from app.ui.status_strip import status_strip
from lab.errors import LabError

st.set_page_config(
    page_title="LLM Learning Lab",
    layout="wide",
    initial_sidebar_state=340,
    menu_items={"About": "Train a GPT of your own, watch it learn, and look inside."},
)
page_styles()
page = st.navigation(list(pages().values()))
try:
    get_engine()
except LabError as error:  # for example: another window of the lab owns the record
    show_error(error)
    st.stop()
status_strip()
try:
    page.run()
except LabError as error:  # whatever a page did not say itself
    show_error(error)
