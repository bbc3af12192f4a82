"""Runs beside each other: curves, final figures, settings, and what to train next to know more."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from app.ui import runs_address, state
from app.ui.charts import OVER, Over, Style, overlay, overlay_data, parallel_coordinates
from app.ui.messages import plain, speaking
from app.ui.runs_actions import names_of
from app.ui.runs_contrast import draw_contrast, said, said_setting
from app.ui.runs_figures import figures_table
from app.ui.show_sql import show_sql
from lab.store import config_diff, metric_info
from lab.store.comparison import MOST
from lab.store.cursor import Cursor
from lab.store.settings import ORIGIN
from lab.store.sql_text import literal

FIRST = ("val/loss", "train/loss", "val/bits_per_byte", "train/grad_norm", "train/learning_rate")
"""Figures in the order in which they are offered; all others follow by name."""
_SMALL = 6
"""Small multiples at most, two rows of three."""


def draw_comparison(run_ids: Sequence[str]) -> None:
    """Everything about 2 to 20 runs."""
    names = names_of(run_ids)
    st.button(
        "All runs", icon=":material/arrow_back:", type="tertiary", key="compare_back", on_click=runs_address.show_list
    )
    st.title("Compare", anchor=False)
    if not 2 <= len(names) <= MOST:
        st.info(f"A comparison takes 2 to {MOST} runs: mark them in the list.")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"{len(names)} runs:", width="content")
        for run_id, name in names.items():
            st.button(
                name, key=f"compare_open_{run_id}", type="tertiary", on_click=runs_address.open_run, args=(run_id,)
            )
        if state.read(_is_any_live, list(names)):
            st.button("Look again", key="compare_again", help="One of them is still training.")
    recorded = state.read(_metrics, list(names))
    if recorded:
        _draw_curves(names, recorded)
        _draw_figures(names, recorded)
    else:
        st.caption("None of them has recorded a figure yet.")
    _draw_settings(names)
    with speaking():
        draw_contrast(names)


def _draw_curves(names: Mapping[str, str], recorded: Sequence[str]) -> None:
    info = state.read(metric_info)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        metric = st.selectbox("Figure", recorded, key="compare_metric", bind="query-params", width=220)
        style = _draw_style()
    unit = (info.get(metric) or {}).get("unit") or metric
    with speaking():
        data = state.read(overlay_data, names, metric, style)
        if data.empty:
            st.caption("None of these runs has a value of this figure that can be drawn so.")
        else:
            st.altair_chart(overlay(data, style=style, y_title=unit))
        st.caption(_reading(info.get(metric) or {}, data, style))
        with st.container(horizontal=True, vertical_alignment="center"):
            show_sql(data.attrs["sql"])
            small = st.toggle(
                "All figures", key="compare_small", bind="query-params", help="Small charts of the other figures."
            )
        others = [name for name in recorded if name != metric][:_SMALL]
        if small and others:
            columns = st.columns(3)
            for place, name in enumerate(others):
                with columns[place % 3]:
                    st.markdown(f"**{plain(name)}**")
                    part = state.read(overlay_data, names, name, style, points=150)
                    title = (info.get(name) or {}).get("unit") or name
                    st.altair_chart(overlay(part, style=style, y_title=title, height=170, legend=False))
                    show_sql(part.attrs["sql"])


def _draw_style() -> Style:
    over: Over = (
        st.segmented_control(
            "Over", list(OVER), default="step", required=True, key="compare_over", bind="query-params",
            help="FLOPs: what the training cost in arithmetic, so that models of different sizes compare.",
        )
        or "step"
    )  # fmt: skip
    logs = st.pills("Logarithmic", ["x", "y"], selection_mode="multi", key="compare_log", bind="query-params")
    smoothing = st.slider(
        "Smoothing", 0.0, 0.98, 0.0, 0.02, key="compare_smoothing", bind="query-params", width=180,
        help="A moving average; the raw line stays faintly behind.",
    )  # fmt: skip
    best = st.toggle(
        "Best so far", key="compare_best", bind="query-params", help="What you would have, had you stopped there."
    )
    return Style(over=over, log_x="x" in logs, log_y="y" in logs, smoothing=smoothing, best=best)


def _reading(info: Mapping[str, str], data: pd.DataFrame, style: Style) -> str:
    parts = [info.get("description") or ""]
    if info.get("unit") == "nats/token" or "nats" in (info.get("unit") or ""):
        parts.append("Nats per token compare only between runs with the same tokenizer; bits per byte compare always.")
    if data.attrs["nonfinite"]:
        parts.append(f"{data.attrs['nonfinite']:,} values were not finite and are not drawn.")
    parts.append("At most 400 points a run. Drag to move, scroll to zoom, double click for all.")
    return " ".join(part for part in parts if part)


def _draw_figures(names: Mapping[str, str], recorded: Sequence[str]) -> None:
    st.subheader("Final figures", anchor=False)
    metric = st.session_state.get("compare_metric", recorded[0])
    with st.container(horizontal=True):
        value = st.segmented_control(
            "Value", ["last", "best"], default="last", required=True, key="compare_value", bind="query-params",
            label_visibility="collapsed",
        )  # fmt: skip
    table = state.read(figures_table, names, metric, value or "last")
    if table.empty:
        st.caption(f"None of these runs has recorded {plain(metric)}.")
        return
    st.dataframe(
        table,
        hide_index=True,
        height="content",
        column_config={
            "Value": st.column_config.NumberColumn(metric, format="%.4f"),
            "Mean": st.column_config.NumberColumn("Mean of seeds", format="%.4f"),
            "Spread": st.column_config.NumberColumn("Spread (sd)", format="%.4f"),
            "Seeds": st.column_config.NumberColumn("Seeds", help="Runs in the record with the same settings."),
            "Verdict": st.column_config.TextColumn("Against the best", width="medium"),
        },
    )
    st.caption(
        "The spread is that of runs with the same settings and another seed. Within seed noise: the difference is no "
        "larger than luck makes it, at 95 %. One run each says nothing about luck: train another seed of both."
    )


def _draw_settings(names: Mapping[str, str]) -> None:
    st.subheader("Settings", anchor=False)
    only = st.toggle("Differences only", value=True, key="compare_only", bind="query-params")
    with speaking():
        frame = state.read(config_diff, list(names), only_differences=only)
        if frame.empty:
            st.caption(f"All {frame.attrs['same']} settings are the same.")
            return
        shown = in_words(frame).rename(columns=dict(names), index={ORIGIN: said_setting(ORIGIN)})
        st.dataframe(shown, height=min(600, 38 + 35 * len(shown)))
        said = [f"{frame.attrs['same']} settings are the same in all of them."]
        if frame.attrs["inert"]:
            said.append(f"{', '.join(frame.attrs['inert'])}: for speed or looks only, nothing learned depends on it.")
        st.caption(plain(" ".join(said)))
        _draw_parallel(names, state.read(config_diff, list(names)))


def _draw_parallel(names: Mapping[str, str], different: pd.DataFrame) -> None:
    """Each differing setting an axis, and the final loss."""
    usable = [name for name in different.index if name not in different.attrs["inert"]]
    results = state.read(_last_values, list(names))
    axes = st.multiselect(
        "Parallel coordinates over", [*usable, *results.columns], key=f"compare_axes_{len(names)}",
        default=[*usable[:6], *[name for name in ("val/loss",) if name in results.columns]],
        help="Each run is a line; each axis goes from the smallest to the largest value among these runs.",
    )  # fmt: skip
    if len(axes) < 2:
        st.caption("Choose two axes or more.")
        return
    if ORIGIN in different.index:
        different.loc[ORIGIN] = in_words(different).loc[ORIGIN]
    values = different.T.join(results, how="left")[axes].rename(index=dict(names))
    st.altair_chart(parallel_coordinates(values))
    show_sql(parallel_sql(names, axes))
    st.caption(
        "Lines that run alike from a setting to the loss tell that it matters; lines that cross, that it does not."
    )


def in_words(settings: pd.DataFrame) -> pd.DataFrame:
    """Settings as `config_diff` gives them, as a person reads them."""
    return pd.DataFrame(
        {run_id: [said(name, value) for name, value in column.items()] for run_id, column in settings.items()},
        index=settings.index,
    )


def parallel_sql(names: Mapping[str, str], axes: Sequence[str]) -> str:
    """The statement that yields what the parallel coordinates show: one row per run, one column per axis."""
    columns = []
    for axis in axes:
        if "/" in axis:
            totals = f"SELECT last_value FROM metric_totals t WHERE t.run_id = r.run_id AND t.name = {literal(axis)}"
            columns.append(f'({totals}) AS "{axis}"')
        elif axis == ORIGIN:
            columns.append(f"r.parent_run_id || '@' || r.parent_step AS {axis}")
        else:
            columns.append(f"json_extract_string(r.config, '$.*.{axis}')[1] AS {axis}")
    chosen = ", ".join(literal(run_id) for run_id in names)
    return (
        "SELECT r.name,\n       " + ",\n       ".join(columns) + f"\nFROM runs r\nWHERE r.run_id IN ({chosen})\n"
        f"ORDER BY list_position([{chosen}], r.run_id)"
    )


def _is_any_live(cursor: Cursor, run_ids: Sequence[str]) -> bool:
    sql = "SELECT 1 FROM runs WHERE list_contains(?, run_id) AND status IN ('running', 'paused', 'queued') LIMIT 1"
    return cursor.execute(sql, [list(run_ids)]).fetchone() is not None


def _metrics(cursor: Cursor, run_ids: Sequence[str]) -> list[str]:
    sql = "SELECT DISTINCT name FROM metric_totals WHERE list_contains(?, run_id) ORDER BY name"
    found = [name for (name,) in cursor.execute(sql, [list(run_ids)]).fetchall()]
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def _last_values(cursor: Cursor, run_ids: Sequence[str]) -> pd.DataFrame:
    """Final values: one row per run id, one column per figure that all could have."""
    sql = """
        SELECT run_id, name, last_value FROM metric_totals
        WHERE list_contains(?, run_id) AND isfinite(last_value) AND NOT starts_with(name, 'system/')
    """
    frame = cursor.execute(sql, [list(run_ids)]).df()
    return frame.pivot(index="run_id", columns="name", values="last_value")
