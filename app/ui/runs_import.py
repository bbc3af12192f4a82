"""Taking in a run from elsewhere: the file is uploaded, and what it is is seen from its content."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.ui.actions import attempt
from app.ui.messages import plain
from app.ui.runs_address import mark
from lab.store.importing import Imported
from lab.store.imports import import_path

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_FILE = "import_file"


def draw_import() -> None:
    """The popover beside the search."""
    with st.popover("Import", type="tertiary"):
        st.caption(
            "A run archive (.labrun), CSV with the columns step, name, value or one column per figure, or a "
            "TensorBoard event file. Folders: `lab runs import PATH` in a terminal."
        )
        file = st.file_uploader("File", key=_FILE, label_visibility="collapsed")
        st.text_input("Call it", key="import_name", placeholder="its own name", help="For files of other programs.")
        st.button("Take it in", key="import_go", disabled=file is None, on_click=_import)


def _import() -> None:
    file: UploadedFile | None = st.session_state[_FILE]
    if file is None:
        return
    taken = attempt(lambda: take(file.name, file.getvalue(), st.session_state["import_name"].strip()))
    for run in taken or []:
        st.toast(plain(f"{run.rows:,} rows came in. {run.notice}"))
    if taken:
        mark([run.run_id for run in taken])


def take(file_name: str, content: bytes, name: str = "") -> list[Imported]:
    """Import an uploaded file.

    Raises:
        StoreError: it is nothing that can be imported, or damaged.
        RunError: the run is here already.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(file_name).name
        path.write_bytes(content)
        return import_path(path, name=name or Path(file_name).stem)
