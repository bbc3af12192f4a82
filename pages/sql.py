"""SQL: questions to the record that no page has thought of."""

import streamlit as st

from app.ui.sql_console import draw_console, draw_examples, draw_history, draw_kept, draw_schema

st.title("SQL", anchor=False)
st.markdown(
    "Ask the record anything: every figure of every run stands in a few tables. Choose a question to "
    "see how it is asked, and change it."
)
left, right = st.columns([5, 2], gap="large")
with left:
    draw_console()
with right:
    tabs = st.tabs(["Examples", "Tables", "Kept", "History"])
    with tabs[0]:
        draw_examples()
    with tabs[1]:
        draw_schema()
    with tabs[2]:
        draw_kept()
    with tabs[3]:
        draw_history()
