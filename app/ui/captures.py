"""Captures that are kept on disk: two models that do not fit into memory together are compared through them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.ui import words
from app.ui.looking import ALL_POINTS, TEXT_KEY, Look, look_at, open_model
from app.ui.messages import plain, speaking
from app.ui.model_choice import Choice

if TYPE_CHECKING:
    from lab.analysis.stored import StoredCapture

_TEXT_SHOWN = 40


def draw_keep(look: Look, choice: Choice) -> None:
    """Store what is looked at under its run, or for a model that was not trained here among the lab's own files."""
    with st.popover("Keep this capture", type="tertiary"):
        st.markdown(
            f"Weights of attention and the stream as they were read: {words.data(look.capture.bytes)}. Compare another "
            "model with it later, also when the two do not fit into memory together."
        )
        name = st.text_input("Name", value=f"{look.title} {look.text[:20].strip()}", key="capture_name")
        if st.button("Keep", type="primary", key="capture_keep"):
            with speaking():
                st.success(f"Kept as {plain(str(keep(look, choice, name)))}.")


def keep(look: Look, choice: Choice, name: str) -> Path:
    """Write it, with every point of the stream, whichever page it is kept on; returns where.

    Raises:
        LabError: it cannot be written.
    """
    from lab.analysis.stored import capture_path, folder_of, save_capture
    from lab.rundir import find_run

    session = open_model(choice)
    layer = look.kept_heads[0][0] if look.kept_heads else None
    look = look_at(choice, look.text, points=ALL_POINTS, layer=layer)
    run_folder = find_run(session.run_id).path if session.run_id is not None else None
    path = capture_path(folder_of(run_folder, session.name), name)
    about = {
        "model": session.ref, "title": look.title, "precision": session.precision, "text": look.text,
        "tokens": list(look.tokens), "kept_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    save_capture(look.capture, path, about=about)
    return path


def choose_stored(look: Look) -> Look | None:
    """One of the stored captures, of the same tokens; None, with a sentence, when there is none."""
    from lab.analysis.stored import delete_capture, stored_captures

    found = {str(one.path): one for one in stored_captures()}
    if not found:
        st.info("No capture is kept yet: open a model, and press Keep this capture beside its name.")
        return None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        picked = st.selectbox(
            "Stored capture", list(found), format_func=lambda path: _label(found[path]) if path in found else path,
            key="stored_pick", help="Of a run or a model; the newest first.",
        )  # fmt: skip
        with st.popover("Delete", type="tertiary"):
            st.markdown(f"Delete {plain(_label(found[picked]))} for good?")
            if st.button("Delete it", key="stored_delete"):
                with speaking():
                    delete_capture(Path(picked))
                    st.rerun()
    path = Path(picked)
    stored = read_stored(picked, path.stat().st_mtime_ns)
    if stored.ids.tolist() != look.ids.tolist():
        st.info(f"That capture is of another text, or of other tokens: “{plain(stored.text[:200])}”.")
        st.button("Read that text", key="stored_text", on_click=_take_text, args=(stored.text,))
        return None
    return stored


@st.cache_resource(max_entries=2, show_spinner="Reading the capture …")
def read_stored(path: str, changed_ns: int) -> Look:
    """A stored capture, as if its model had just read the text.

    Raises:
        DataError: it is damaged.
    """
    from lab.analysis.stored import load_capture

    capture, about = load_capture(Path(path))
    tokens = about.get("tokens") or [str(token) for token in capture.ids[0].tolist()]
    title = about.get("title") or about.get("model") or Path(path).stem
    return Look(f"{title} (stored)", about.get("text", ""), tuple(tokens), capture, "")


def _label(one: "StoredCapture") -> str:
    about = one.about
    title = about.get("title") or about.get("model") or one.path.stem
    return f"{one.path.stem} · {title} · {about.get('text', '')[:_TEXT_SHOWN]!r} · {words.data(one.bytes)}"


def _take_text(text: str) -> None:
    st.session_state[TEXT_KEY] = st.session_state["look_text"] = text
