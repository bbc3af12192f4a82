"""What the Runs page shows, in its address: a list with marks, one run, or a comparison. A link reopens it."""

from collections.abc import Sequence

import streamlit as st

from app.ui.state import RUN_KEY

MARKED_KEY = "marked"
"""Query parameter: ids of the runs that are marked in the list, with commas."""
COMPARE_KEY = "compare"
"""Query parameter: ids of the runs that are compared, with commas."""


def marked() -> list[str]:
    return _ids(MARKED_KEY)


def mark(run_ids: Sequence[str]) -> None:
    """Mark these runs and no others. For callbacks."""
    if run_ids:
        st.query_params[MARKED_KEY] = ",".join(run_ids)
    elif MARKED_KEY in st.query_params:
        del st.query_params[MARKED_KEY]


def opened() -> str | None:
    """The run that is open."""
    return st.query_params.get(RUN_KEY)


def compared() -> list[str]:
    return _ids(COMPARE_KEY)


def open_run(run_id: str) -> None:
    """Show one run. For callbacks."""
    _leave()
    st.query_params[RUN_KEY] = run_id


def compare(run_ids: Sequence[str]) -> None:
    """Lay runs beside each other. For callbacks."""
    _leave()
    st.query_params[COMPARE_KEY] = ",".join(run_ids)


def show_list() -> None:
    """Go back to the list, with the marks it had. For callbacks."""
    _leave()


def _leave() -> None:
    for key in (RUN_KEY, COMPARE_KEY):
        if key in st.query_params:
            del st.query_params[key]


def _ids(key: str) -> list[str]:
    return [run_id for run_id in dict.fromkeys(st.query_params.get(key, "").split(",")) if run_id]
