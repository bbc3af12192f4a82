"""The notebook of a run: free text in Markdown, kept while it is typed."""

from pathlib import Path

import streamlit as st

from app.ui import state
from app.ui.actions import attempt
from app.ui.polled import polled
from lab.store import labels

_FOLDER = Path(__file__).parent
_component = st.components.v2.component(
    "run_notebook",
    html='<div class="notebook"><textarea spellcheck="true" aria-label="Notebook"></textarea>'
    '<span class="said" role="status"></span></div>',
    css=(_FOLDER / "notebook.css").read_text(encoding="utf-8"),
    js=(_FOLDER / "notebook.js").read_text(encoding="utf-8"),
)


def draw_notebook(run_id: str) -> None:
    """The text to write, and beside it how it reads."""
    polled(_draw, run_id, every=None)


def _draw(run_id: str) -> None:
    key = f"notebook_{run_id}"
    left, right = st.columns(2, gap="large")
    with left:
        _component(
            key=key,
            data={"run": run_id, "text": labels.notebook(state.get_engine().database, run_id)},
            on_text_change=lambda: _keep(run_id, key),
            height="content",
        )
        st.caption("Markdown. Kept as you type; the search finds it, and the report and the archive carry it.")
    with right:
        text = labels.notebook(state.get_engine().database, run_id)
        if text:
            st.markdown(text)
        else:
            st.caption("What did you expect, what came, and what would you try next? It reads here as you write.")


def _keep(run_id: str, key: str) -> None:
    text = st.session_state[key].get("text")
    if text is not None:
        attempt(lambda: labels.set_notebook(state.get_engine().database, run_id, text))
