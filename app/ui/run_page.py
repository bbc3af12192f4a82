"""One run with everything of it: for looking back. The Pretraining page is for watching and trying."""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from app.ui import runs_address, state
from app.ui.actions import attempt, show_refusals
from app.ui.live_chart import Chart, Line, Look, live_chart
from app.ui.messages import plain, speaking
from app.ui.navigation import link
from app.ui.notebook import draw_notebook
from app.ui.open_links import open_links
from app.ui.polled import LIVE_POLL_S, TEXT_POLL_S, parts_of
from app.ui.run_charts import AXES, SMALL_CHARTS, loss_chart, most_points, note, points
from app.ui.run_details import draw_events, draw_sql
from app.ui.run_exports import draw_exports
from app.ui.run_facts import draw_checkpoint_list, draw_expected, draw_lineage, draw_settings, draw_versions
from app.ui.run_head import draw_head, live_status, person_guess, vocabulary
from app.ui.run_view import draw_look
from app.ui.samples import draw_samples
from lab import store
from lab.errors import RunError
from lab.store import labels
from lab.store.cursor import Cursor

_FIRST = tuple(small.metric for small in SMALL_CHARTS)


def draw_run_page(run_id: str) -> None:
    """Head, curves, and tabs."""
    try:
        row = state.read(store.run_row, run_id)
    except RunError:
        st.info("The address names a run that is not in the record: was it purged?")
        st.button("All runs", key="run_back", on_click=runs_address.show_list)
        return
    alive = live_status(run_id) is not None
    part = parts_of(run_id, alive=alive)
    show_refusals()
    _draw_bar(row)
    part(_live, LIVE_POLL_S)
    tabs = st.tabs(
        ["What it wrote", "Notes", "Expected and lineage", "Checkpoints", "Events", "Settings", "Versions", "SQL"]
    )
    with tabs[0]:
        part(draw_samples, TEXT_POLL_S)
    with tabs[1]:
        _draw_labels(row)
        draw_notebook(run_id)
    with tabs[2]:
        part(_expected, TEXT_POLL_S)
        draw_lineage(row)
    with tabs[3]:
        part(draw_checkpoint_list, TEXT_POLL_S)
    with tabs[4]:
        part(draw_events, TEXT_POLL_S)
    with tabs[5]:
        draw_settings(row)
    with tabs[6]:
        draw_versions(row)
    with tabs[7]:
        draw_sql(run_id)


def _draw_bar(row: Mapping[str, Any]) -> None:
    """The way back, and what can be done with the run as a whole."""
    run_id = row["run_id"]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            "All runs", icon=":material/arrow_back:", type="tertiary", key="run_back", on_click=runs_address.show_list
        )
        if row["kind"] == "pretrain" and row["config"] is not None:
            link("pretraining", "Watch and try it", run=run_id)
        if not state.read(store.checkpoints, run_id).empty:
            open_links(run_id, short=True)
        with st.popover("Export", type="tertiary"):
            draw_exports(run_id, row["name"] or run_id)
        if row["deleted_at"] is not None:
            st.markdown(":gray[in the bin]", width="content")
            _button("Restore", labels.restore, run_id)
            return
        if row["archived_at"] is None:
            _button("Archive", labels.archive, run_id)
        else:
            _button("Take out of the archive", labels.unarchive, run_id)
        _button("Delete", labels.delete, run_id)


def _button(label: str, how: Callable[..., None], run_id: str) -> None:
    st.button(
        label, key=f"run_{how.__name__}", type="tertiary",
        on_click=lambda: attempt(lambda: how(state.get_engine().database, run_id)),
    )  # fmt: skip


def _draw_labels(row: Mapping[str, Any]) -> None:
    """Name, tags and note, changed where they stand."""
    run_id = row["run_id"]
    name, tags, note_key = (f"label_{field}_{run_id}" for field in ("name", "tags", "note"))
    known = state.read(store.choices)["tags"]
    there = list(row["tags"] or [])
    columns = st.columns([2, 3, 4])
    with columns[0]:
        st.text_input("Name", value=row["name"] or "", key=name, on_change=_keep, args=(labels.rename, run_id, name))
    with columns[1]:
        st.multiselect(
            "Tags", list(dict.fromkeys([*there, *known])), default=there, key=tags, accept_new_options=True,
            placeholder="none yet: type one", on_change=_keep, args=(labels.set_tags, run_id, tags),
        )  # fmt: skip
    with columns[2]:
        st.text_input(
            "Note", value=row["note"] or "", key=note_key, placeholder="One line to remember it by",
            on_change=_keep, args=(labels.set_note, run_id, note_key),
        )  # fmt: skip


def _keep(how: Callable[..., None], run_id: str, key: str) -> None:
    attempt(lambda: how(state.get_engine().database, run_id, st.session_state[key]))


def _live(run_id: str) -> None:
    """Head and curves, in one part: each look at the record costs the training a moment."""
    with state.cursor() as cursor:
        draw_head(cursor, run_id)
        row = store.run_row(cursor, run_id)
    if row["tags"] or row["note"]:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            for tag in row["tags"] or ():
                st.badge(plain(tag), color="blue")
            st.markdown(plain(row["note"] or ""), width="content")
    look = draw_look()
    with state.cursor() as cursor:
        recorded = store.metric_names(cursor, run_id)
        charts = other_charts(cursor, run_id, recorded, look)
        loss = None
        if "train/loss" in recorded or "val/loss" in recorded or not recorded:
            known = vocabulary(row["config"]) if row["n_params"] else None
            guess = person_guess(store.predictions(cursor, run_id))
            loss = loss_chart(cursor, run_id, look=look, vocab_size=known, guess=guess)
    if loss is not None:
        live_chart(loss, key="run_chart_loss")
    columns = st.columns(3)
    for place, chart in enumerate(charts):
        with columns[place % 3]:
            live_chart(chart, key=f"run_chart_{chart.title}")


def other_charts(cursor: Cursor, run_id: str, recorded: list[str], look: Look) -> list[Chart]:
    """Every figure that the run has recorded besides the two losses."""
    info = store.metric_info(cursor)
    titles = {small.metric: small for small in SMALL_CHARTS}
    others = [name for name in recorded if name not in ("train/loss", "val/loss")]
    others.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    plain_look = Look(x=look.x, log_x=look.log_x, smoothing=look.smoothing)
    charts = []
    for name in others:
        frame = store.series(cursor, run_id, name, AXES[look.x], most_points(name))
        small = titles.get(name)
        title = small.title if small else name
        unit = small.y_label if small else (info.get(name) or {}).get("unit") or ""
        line = Line(name=title, points=points(frame), exact=name.startswith("val/") or bool(small and small.exact))
        said = note(frame.attrs) if frame.attrs["nonfinite"] else ""
        charts.append(
            Chart(title=title, y_label=unit, lines=[line], group=run_id, look=plain_look, height=170, note=said)
        )
    return charts


def _expected(run_id: str) -> None:
    with speaking():
        draw_expected(state.read(store.predictions, run_id))
