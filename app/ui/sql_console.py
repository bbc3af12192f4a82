"""The SQL console: a statement, Run and Stop, and what was asked before."""

import pandas as pd
import streamlit as st

from app.ui import state, words
from app.ui.actions import attempt, show_refusals
from app.ui.polled import polled
from app.ui.show_sql import SQL_KEY
from app.ui.sql_examples import EXAMPLES
from app.ui.sql_question import Question, ask
from app.ui.sql_result import draw_answer
from lab.store.cursor import Cursor
from lab.store.saved import forget, save_query, saved_queries, sql_history

POLL_S = 0.3
_TEXT = "sql_text"
_QUESTION = "sql_question"
_WRITTEN = "sql_written"
_PATIENCE_S = 0.4
"""Most answers come sooner: then the page is drawn once, with the answer."""


def draw_console() -> None:
    """The statement, its buttons, and the answer."""
    _follow_address()
    show_refusals()
    st.text_area(
        "Statement", key=_TEXT, height=190, persist_state="session", label_visibility="collapsed",
        placeholder="SELECT name, val_loss FROM run_summary ORDER BY val_loss",
    )  # fmt: skip
    question: Question | None = st.session_state.get(_QUESTION)
    if question is not None:
        question.wait(_PATIENCE_S)
    running = question is not None and not question.is_done
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button("Run", key="sql_run", type="primary", disabled=running, on_click=run, shortcut="Ctrl+Enter")
        if question is not None and running:
            st.button("Stop", key="sql_stop", on_click=question.stop)
        with st.popover("Keep", type="tertiary"):
            st.text_input("Keep this statement as", key="sql_name", placeholder="best per learning rate")
            st.button("Keep", key="sql_keep", on_click=_keep)
        st.caption("One SELECT, in DuckDB's SQL. It runs apart from the lab and can change nothing.", width="content")
    if question is not None and running:
        polled(_wait, question, every=POLL_S)
    elif question is not None:
        draw_answer(question)


def draw_examples() -> None:
    """Questions to learn from; a click asks one."""
    with st.container(gap="xsmall"):
        for number, example in enumerate(EXAMPLES):
            st.button(
                example.question, key=f"example_{number}", type="tertiary", help=example.teaches,
                on_click=run, args=(example.sql,),
            )  # fmt: skip


def draw_schema() -> None:
    """Every table and view with its columns; a click asks for its first rows."""
    for table, columns in state.read(schema).items():
        with st.expander(f"{table} · {len(columns)}"):
            st.button("First rows", key=f"rows_{table}", on_click=run, args=(f"SELECT * FROM {table} LIMIT 100",))
            st.dataframe(
                pd.DataFrame(columns, columns=["Column", "Type"]),
                hide_index=True,
                height=min(320, 38 + 35 * len(columns)),
            )


def draw_kept() -> None:
    """Statements kept under a name."""
    kept = state.read(saved_queries)
    if not kept:
        st.caption("None yet: Keep, beside Run, puts a statement here.")
    for name, sql in kept.items():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(name, key=f"kept_{name}", type="tertiary", on_click=run, args=(sql,), help=sql)
            st.button("Forget", key=f"kept_forget_{name}", type="tertiary", on_click=_forget, args=(name,))


def draw_history() -> None:
    """What was asked before, newest first; a mark brings one back."""
    asked = state.read(sql_history, 100)
    if asked.empty:
        st.caption("Nothing was asked yet.")
        return
    shown = pd.DataFrame(
        {
            "When": [words.ago(at.to_pydatetime()) for at in asked["asked_at"]],
            "Statement": asked["sql"].str.replace(r"\s+", " ", regex=True),
            "Rows": asked["rows"],
            "Seconds": asked["seconds"],
            "Error": asked["error"],
        }
    )
    key = f"sql_history_{len(asked)}_{asked['asked_at'].iloc[0]}"
    st.dataframe(
        shown, hide_index=True, height=min(420, 38 + 35 * len(shown)), key=key, selection_mode="single-row",
        on_select=lambda: _bring_back(key, list(asked["sql"])),
        column_config={
            "Statement": st.column_config.TextColumn("Statement", width="large"),
            "Seconds": st.column_config.NumberColumn("Seconds", format="%.2f"),
        },
    )  # fmt: skip
    st.caption("Mark a row to bring its statement back.")


def schema(cursor: Cursor) -> dict[str, list[tuple[str, str]]]:
    """Columns and types by table; the friendly views first."""
    sql = """
        SELECT c.table_name, c.column_name, c.data_type
        FROM duckdb_columns() c LEFT JOIN duckdb_views() v
          ON v.view_name = c.table_name AND v.schema_name = c.schema_name AND NOT v.internal
        WHERE NOT c.internal AND c.schema_name = 'main'
        ORDER BY v.view_name IS NULL, c.table_name, c.column_index
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in cursor.execute(sql).fetchall():
        found.setdefault(table, []).append((column, kind))
    return found


def run(sql: str | None = None) -> None:
    """Ask the statement in the box, or this one. For callbacks."""
    if sql is not None:
        st.session_state[_TEXT] = sql
    text = st.session_state.get(_TEXT, "")
    before: Question | None = st.session_state.get(_QUESTION)
    if before is not None:
        before.stop()
    st.session_state[_QUESTION] = ask(state.get_engine().database, text)
    st.session_state[_WRITTEN] = st.query_params[SQL_KEY] = text


def _follow_address() -> None:
    """Put the address' statement into the box and ask it, when it is another one than the last."""
    asked = st.query_params.get(SQL_KEY)
    if asked and asked != st.session_state.get(_WRITTEN):
        run(asked)


def _wait(question: Question) -> None:
    if question.is_done:
        st.rerun()
    st.caption("Asking …")


def _bring_back(key: str, statements: list[str]) -> None:
    rows = st.session_state[key].selection.rows
    if rows:
        st.session_state[_TEXT] = statements[rows[0]]


def _keep() -> None:
    text = st.session_state.get(_TEXT, "")
    attempt(lambda: save_query(state.get_engine().database, st.session_state["sql_name"], text))
    st.session_state["sql_name"] = ""


def _forget(name: str) -> None:
    attempt(lambda: forget(state.get_engine().database, "query", name))
