"""The pages there are. A page that does not work yet is not in this list."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from streamlit.navigation.page import StreamlitPage

_PAGES = Path(__file__).resolve().parents[2] / "pages"


def pages() -> dict[str, "StreamlitPage"]:
    """Every page by its name; the first is shown at the bare address."""
    return {
        "home": st.Page(_PAGES / "home.py", title="Home", url_path="home", default=True),
        "pretraining": st.Page(_PAGES / "pretraining.py", title="Pretraining", url_path="pretraining"),
        "fine_tuning": st.Page(_PAGES / "fine_tuning.py", title="Fine-tuning", url_path="fine_tuning"),
        "attention": st.Page(_PAGES / "attention.py", title="Attention", url_path="attention"),
        "probing": st.Page(_PAGES / "probing.py", title="Probing", url_path="probing"),
        "runs": st.Page(_PAGES / "runs.py", title="Runs", url_path="runs"),
        "outputs": st.Page(_PAGES / "outputs.py", title="Outputs", url_path="outputs"),
        "sql": st.Page(_PAGES / "sql.py", title="SQL", url_path="sql"),
    }


def link(page: str, label: str, **query: str) -> None:
    """A link to a page, with query parameters such as the run to show."""
    st.page_link(pages()[page], label=label, query_params=query or None, width="content")
