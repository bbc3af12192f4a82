"""The tabs under a run: what happened, its settings, and the SQL behind the page."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import finetuning_settings, state, words
from app.ui.charts import OVER, Over
from app.ui.form_settings import form_values, pretraining_form, use_settings
from app.ui.messages import plain, speaking
from app.ui.run_charts import most_points
from app.ui.show_sql import show_statement
from lab import store
from lab.config import PretrainConfig, RunConfig, flat, from_json, leaves
from lab.errors import ConfigError
from lab.rundir import find_run
from lab.store import metric_names, series
from lab.store.cursor import Cursor
from lab.store.curves import Axis

HIDDEN_EVENTS = ("resume_state",)
"""Kinds of events that come so often that they would bury the others."""


def draw_events(run_id: str) -> None:
    """What happened, newest first."""
    events = state.read(store.events, run_id)
    shown = events[~events["kind"].isin(HIDDEN_EVENTS)] if len(events) else events
    if shown.empty:
        st.caption("Nothing yet.")
        return
    st.dataframe(
        shown.iloc[::-1][["time", "step", "kind", "message"]],
        hide_index=True,
        height=min(400, 38 + 35 * len(shown)),
        column_config={
            "time": st.column_config.DatetimeColumn("Time", format="HH:mm:ss", width="small"),
            "step": st.column_config.NumberColumn("Step", width="small"),
            "kind": st.column_config.TextColumn("What", width="small"),
            "message": st.column_config.TextColumn("Why", width="large"),
        },
    )


def draw_config(run_id: str, stored: Mapping[str, Any]) -> None:
    """The settings this run really has, beside what the form says."""
    try:
        config = from_json(stored)
    except ConfigError as error:  # a run of a newer lab: its settings are still data to look at
        st.caption(str(error))
        st.json(stored)
        return
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left:
        st.caption("What the run was started with, and what `auto` became here. The form on the left is apart.")
    with right:
        st.button("Use this run's settings", key=f"use_{run_id}", on_click=use_settings, args=(run_id,))
    resolved = find_run(run_id).info().get("resolved")
    if resolved and "kernel" in resolved:
        st.caption(
            f"Attention kernel really used: {plain(resolved['kernel'])}, because {plain(resolved['kernel_reason'])}."
        )
    st.dataframe(
        settings_table(config, form_of(config)),
        hide_index=True,
        height=420,
        column_config={"Differs": st.column_config.CheckboxColumn("Differs", width="small")},
    )


def form_of(config: RunConfig) -> dict[str, Any]:
    """What the form for this kind of run says now."""
    if isinstance(config, PretrainConfig):
        return form_values(pretraining_form())
    return finetuning_settings.form_values(finetuning_settings.finetuning_form())


def settings_table(config: RunConfig, form: Mapping[str, Any]) -> pd.DataFrame:
    """One row per knob: its group, name, this run's value, the form's, and whether they differ."""
    values = flat(config)
    rows = [
        {
            "Group": leaf.group,
            "Setting": leaf.title,
            "Name": leaf.name,
            "This run": words.value(values[leaf.name]),
            "Form": words.value(form.get(leaf.name)) if leaf.level != "derived" else "",
            "Differs": leaf.level != "derived" and words.value(values[leaf.name]) != words.value(form.get(leaf.name)),
        }
        for leaf in leaves(type(config))
    ]
    return pd.DataFrame(rows)


def draw_sql(run_id: str) -> None:
    """The statements that show the same as the page, a click away from the console."""
    st.caption("The page is drawn from the record. The same rows by SQL; in a terminal, `lab sql` answers it too.")
    for title, sql in statements(run_id).items():
        show_statement(title, sql)
    recorded = state.read(metric_names, run_id)
    if not recorded:
        return
    shown: Over = st.session_state.get("look_x") or "step"
    with st.container(horizontal=True):
        chosen = st.selectbox(
            "The points of a chart", recorded, key=f"sql_of_{run_id}", help="Exactly the rows that are drawn."
        )
        over = st.selectbox(
            "Over", list(OVER), index=list(OVER).index(shown), key=f"sql_over_{shown}_{run_id}", width=160,
            help="What the x axis counts; at first what the charts above count.",
        )  # fmt: skip
    with speaking():
        show_statement(f"{chosen} over {over}", state.read(chart_statement, run_id, chosen, OVER[over]))


def chart_statement(cursor: Cursor, run_id: str, metric: str, axis: Axis) -> str:
    """The statement that yields the points of a figure's chart.

    Raises:
        RunError: the axis is "flops", but the run's size is not known.
    """
    sql: str = series(cursor, run_id, metric, axis, most_points(metric)).attrs["sql"]
    return sql


def statements(run_id: str) -> dict[str, str]:
    """SQL by what it shows."""
    of_run = f"run_id = '{run_id}'"
    return {
        "The loss curve": "SELECT step, tokens_seen, elapsed_s, name, value FROM metrics "
        f"WHERE {of_run} AND name IN ('train/loss', 'val/loss') ORDER BY step",
        "The newest value of every metric": f"SELECT name, value, step FROM latest_metrics WHERE {of_run}",
        "What it wrote": f"SELECT step, prompt, text FROM samples WHERE {of_run} ORDER BY step",
        "What happened": f"SELECT time, step, kind, message FROM events WHERE {of_run} ORDER BY time",
        "Its settings, one column each": f"SELECT * FROM pretrain_runs WHERE {of_run}",
    }
