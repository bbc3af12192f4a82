""" "Show the SQL": from any figure to the console, with the statement that yields the same rows filled in."""

import streamlit as st

from app.ui.navigation import link

SQL_KEY = "sql"
"""Query parameter of the SQL page: the statement to begin with."""


def show_sql(sql: str) -> None:
    """A quiet link to the console."""
    link("sql", "Show the SQL", **{SQL_KEY: sql})


def show_statement(title: str, sql: str) -> None:
    """A statement with its title, to copy, and the link."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{title}**", width="content")
        show_sql(sql)
    st.code(sql, language="sql", wrap_lines=True)
