"""Taking a run away: one file that imports elsewhere, or a page to read."""

import re
import tempfile
from pathlib import Path

import streamlit as st

from app.ui import state
from lab.store.archive import export_run
from lab.store.report import report


def draw_exports(run_id: str, name: str) -> None:
    """Buttons that make the file when they are pressed."""
    stem = file_name(name)
    weights = st.toggle("With checkpoints", key=f"export_weights_{run_id}", help="Most of the size.")
    st.download_button(
        "Run archive", lambda: _archive(run_id, weights), f"{stem}.labrun", "application/zip",
        key=f"export_archive_{run_id}", on_click="ignore",
        help="Everything of the run in one file. `lab runs import FILE` makes the same run of it elsewhere.",
    )  # fmt: skip
    st.download_button(
        "HTML report", lambda: state.read(report, run_id).encode(), f"{stem}.html", "text/html",
        key=f"export_report_{run_id}", on_click="ignore", help="Curves, settings, samples, events; no network.",
    )  # fmt: skip


def file_name(name: str) -> str:
    """A run's name as a file may be called."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def _archive(run_id: str, checkpoints: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.labrun"
        state.read(export_run, run_id, path, checkpoints=checkpoints)
        return path.read_bytes()
