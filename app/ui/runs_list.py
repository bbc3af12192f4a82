"""The list of runs: a page of the search's answer, to mark, edit in place, put away, and open."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import runs_address, state
from app.ui.actions import attempt, show_refusals
from app.ui.polled import polled
from app.ui.run_table import draw_table, run_table
from app.ui.runs_actions import draw_marked
from app.ui.runs_preview import draw_preview
from app.ui.show_sql import show_sql
from lab.store import RunSearch, find_runs, labels
from lab.store.cursor import Cursor

PAGE = 100
"""Runs on one page of the list."""
POLL_S = 1.5
"""Also while nothing is running: another process may start a run at any time."""

_NUMBER = "runs_page"
_EDIT = "runs_edit"
_ROUND = "runs_round"
"""Session key: counts how often the marks were changed from elsewhere than the table, which then begins anew."""
_EDITABLE: dict[str, Callable[..., None]] = {"Run": labels.rename, "Tags": labels.set_tags, "Note": labels.set_note}


def is_empty(cursor: Cursor) -> bool:
    """Whether no run was ever kept, not even in the bin."""
    return cursor.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None


def draw_list(search: RunSearch) -> None:
    """The table, its pages, and what can be done with the marked runs."""
    editing = st.session_state.get(_EDIT, False)
    polled(_draw, search, editing, every=None if editing else POLL_S)


def _draw(search: RunSearch, editing: bool) -> None:
    number = st.session_state.get(_NUMBER, 0)
    runs = state.read(find_runs, search, limit=PAGE, offset=number * PAGE)
    total = runs.attrs["total"]
    if number and runs.empty:
        st.session_state[_NUMBER] = number = 0
        runs = state.read(find_runs, search, limit=PAGE)
    show_refusals()
    marks = runs_address.marked()
    if runs.empty:
        st.info(
            "No run fits this search."
            if search != RunSearch(place=search.place)
            else {"archived": "No run is archived.", "deleted": "The bin is empty."}.get(
                search.place, "No run is here."
            )
        )
    elif editing:
        _draw_editor(runs)
    else:
        _draw_marks(runs, search, marks)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f":gray[{_count_words(number, len(runs), total)}]", width="content")
        if total > PAGE and _draw_pages(number, ceil(total / PAGE)):
            st.rerun()
        if not editing and len(runs):
            everything = st.button("Mark these", key="runs_mark_all", type="tertiary", on_click=_mark_all, args=(runs,))
            if everything:
                st.rerun(scope="fragment")
        if (
            len(runs)
            and st.toggle(
                "Edit", key=_EDIT, help="Names, tags and notes become fields of the table. Changes are kept at once."
            )
            != editing
        ):
            st.rerun()
        show_sql(runs.attrs["sql"])
    if marks and not editing:
        draw_marked(marks, search.place, again=_mark)
        draw_preview(marks)


def _draw_marks(runs: pd.DataFrame, search: RunSearch, marks: Sequence[str]) -> None:
    """The table with marks at its left edge. Its key holds the ids it shows: a mark is a row's place, not its id."""
    ids = list(runs["run_id"])
    key = f"runs_table_{st.session_state.get(_ROUND, 0)}_{hash(tuple(ids)) & 0xFFFFFFFF:x}"
    extra = [name for name in (*search.metrics, search.sort) if "/" in name and not _is_there(name, search)]
    draw_table(runs, key=key, choose=True, marked=marks, on_mark=lambda: _take_marks(key, ids), metrics=extra)


def _is_there(metric: str, search: RunSearch) -> bool:
    """Whether the table has the metric's value as a column of its own anyway."""
    return search.value == "last" and metric in ("val/loss", "val/bits_per_byte", "train/tokens_per_second")


def _take_marks(key: str, ids: Sequence[str]) -> None:
    rows = st.session_state[key].selection.rows
    elsewhere = [run_id for run_id in runs_address.marked() if run_id not in ids]
    runs_address.mark([*elsewhere, *(ids[row] for row in rows if row < len(ids))])


def _mark(run_ids: Sequence[str]) -> None:
    """Set the marks from elsewhere than the table. For callbacks."""
    runs_address.mark(run_ids)
    st.session_state[_ROUND] = st.session_state.get(_ROUND, 0) + 1


def _mark_all(runs: pd.DataFrame) -> None:
    _mark(list(dict.fromkeys([*runs_address.marked(), *runs["run_id"]])))


def _draw_editor(runs: pd.DataFrame) -> None:
    """The same page with fields for what people say of runs."""
    shown = run_table(runs)[["Run", "Status", "Step", "Validation", "Created"]]
    shown.insert(1, "Tags", [list(tags) if tags is not None else [] for tags in runs["tags"]])
    shown.insert(2, "Note", runs["note"].fillna(""))
    ids = list(runs["run_id"])
    key = f"runs_editor_{hash(tuple(ids)) & 0xFFFFFFFF:x}"
    st.data_editor(
        shown,
        hide_index=True,
        key=key,
        disabled=[name for name in shown.columns if name not in _EDITABLE],
        column_config={
            "Run": st.column_config.TextColumn("Name", width="medium", required=True),
            "Tags": st.column_config.ListColumn("Tags", width="medium", help="Type a tag and press Enter."),
            "Note": st.column_config.TextColumn("Note", width="large"),
            "Validation": st.column_config.NumberColumn("Validation", format="%.3f"),
        },
        on_change=_keep_edits,
        args=(key, ids),
    )
    st.caption("Double click a cell; Enter keeps it. `lab` finds a run by its new name too.")


def _keep_edits(key: str, ids: Sequence[str]) -> None:
    """Write the changes that are not written yet."""
    done: dict[tuple[str, str], Any] = st.session_state.setdefault(f"{key}_done", {})
    database = state.get_engine().database
    for row, changes in st.session_state[key]["edited_rows"].items():
        for column, value in changes.items():
            value = list(value or []) if column == "Tags" else value or ""
            if column in _EDITABLE and done.get((ids[row], column)) != value:
                done[ids[row], column] = value
                attempt(partial(_EDITABLE[column], database, ids[row], value))


def _draw_pages(number: int, pages: int) -> bool:
    pressed = st.button("Before", key="runs_before", type="tertiary", disabled=number == 0, on_click=_turn, args=(-1,))
    pressed |= st.button(
        "After", key="runs_after", type="tertiary", disabled=number + 1 >= pages, on_click=_turn, args=(1,)
    )
    return pressed


def _turn(by: int) -> None:
    st.session_state[_NUMBER] = st.session_state.get(_NUMBER, 0) + by


def _count_words(number: int, shown: int, total: int) -> str:
    if total <= PAGE:
        return f"{total:,} run{'s' if total != 1 else ''}"
    return f"{number * PAGE + 1:,} to {number * PAGE + shown:,} of {total:,} runs"
