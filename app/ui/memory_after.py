"""Memory after a run: what it took over what was forecast, how good forecasts are, and what to do if it ran out."""

from typing import Any

import pandas as pd
import streamlit as st

from app.ui import state
from app.ui.actions import attempt
from app.ui.memory_figure import laid_over, measured_figure
from app.ui.memory_panel import gib, text_colour
from app.ui.show_sql import show_sql
from lab import store
from lab.config import changed
from lab.files import read_json
from lab.rundir import find_run
from lab.store.cursor import Cursor

GIB = 2**30
ON_CPU = (
    "Resident memory is by how much the whole process grew while the run trained, also through whatever else it did in "
    "that time; memory that it had kept free before is not seen, and what libraries keep for themselves is. Below some "
    "100 MiB it says little, and the followed step above is the one to look at."
)
STEP = (
    "One training step from left to right: the bands are the forecast, made before the run on tensors without memory; "
    "the line is the run's first real step, each of its tensors followed. They ought to lie on each other."
)
ON_CUDA = "On CUDA measured is the most that PyTorch's allocator handed out (max_memory_allocated)."

HISTORY = """\
SELECT coalesce(r.device, 'unknown') AS device,
       CASE p.metric WHEN 'system/step_memory_gib' THEN 'one step, each tensor followed'
                     WHEN 'system/reserved_memory_gib' THEN 'reserved by the allocator'
                     ELSE CASE r.device WHEN 'cpu' THEN 'whole run, growth of resident memory'
                                        ELSE 'whole run, allocated' END END AS measured,
       r.name, p.predicted, p.actual, 100 * (p.predicted - p.actual) / p.actual AS error_percent, p.made_at
FROM predictions p JOIN runs r USING (run_id)
WHERE p.metric IN ('system/step_memory_gib', 'system/memory_gib', 'system/reserved_memory_gib')
  AND p.who = 'forecast' AND p.actual > 0 AND r.deleted_at IS NULL
ORDER BY p.made_at DESC"""
"""Every forecast that has been measured, the newest first."""


def draw_memory_after(run_id: str) -> None:
    """The tab of a run."""
    info = find_run(run_id).info()
    known: dict[str, Any] = info.get("memory") or {}
    if "forecast_bytes" not in known:
        st.caption("No forecast was made for this run.")
    elif "measured_bytes" not in known:
        st.caption(f"Forecast: {gib(known['forecast_bytes'])} at the peak. What it takes is known when it ends.")
    else:
        _draw_step(run_id, known)
        _draw_overlay(run_id, known)
    past = state.read(error_history)
    if not past.empty:
        st.markdown("**How good the forecasts have been**")
        st.dataframe(by_device(past), hide_index=True, width="content")
        with st.expander("Each of them"):
            st.dataframe(past, hide_index=True)
            show_sql(HISTORY)


def error_history(cursor: Cursor) -> pd.DataFrame:
    """One row per measured forecast: device, what was measured and how, run, GiB, and the error in percent."""
    return cursor.execute(HISTORY).df()


def by_device(past: pd.DataFrame) -> pd.DataFrame:
    """By device and way of measuring: how many forecasts, their median error and the largest, in percent."""
    size = past.assign(size=past["error_percent"].abs())
    table = size.groupby(["device", "measured"], as_index=False).agg(
        Forecasts=("size", "size"), Median=("size", "median"), Largest=("size", "max")
    )
    for name in ("Median", "Largest"):
        table[name] = [f"{value:.1f} %" for value in table[name]]
    return table.rename(
        columns={"device": "Device", "measured": "Measured", "Median": "Median error", "Largest": "Largest error"}
    )


def draw_out_of_memory(run_id: str) -> None:
    """After a run had too little memory: what would fit, a click away."""
    found = find_run(run_id).info().get("out_of_memory")
    if not found:
        return
    with st.container(border=True):
        st.markdown(f"**{_where(found)}** These changes would fit; each starts a run with them:")
        for number, one in enumerate(found["advice"]):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption(one["sentence"], width="stretch")
                st.button("Go on with this", key=f"fits_{number}", on_click=_go_on, args=(run_id, one["changes"]))
        if not found["advice"]:
            st.caption("Nothing that changes only how it is computed would fit: take a smaller context or model.")


def _where(found: dict[str, Any]) -> str:
    if found["phase"] == "start":
        return "It was not started: this computer has too little memory for it."
    step = f" of step {found['step']:,}" if found["step"] else ""
    return f"It ran out of memory in the {found['phase']}{step}."


def _draw_step(run_id: str, known: dict[str, Any]) -> None:
    """The first real step over its forecast, where one was followed."""
    path = find_run(run_id).memory_path
    curves = read_json(path) if path.exists() else {}
    if not curves.get("measured"):
        return
    st.altair_chart(laid_over(curves["forecast"], curves["measured"], text_colour()), width="stretch")
    forecast, measured = known["step_forecast_bytes"], known["step_measured_bytes"]
    off = 100 * (forecast - measured) / measured
    st.caption(f"Forecast {gib(forecast)}, measured {gib(measured)}, {off:+.2f} % off. {STEP}")


def _draw_overlay(run_id: str, known: dict[str, Any]) -> None:
    with state.cursor() as cursor:
        series = store.series(cursor, run_id, "system/memory_gib")
        device = store.run_row(cursor, run_id)["device"]
    before = known.get("before_bytes", 0) / GIB
    curve = pd.DataFrame({"step": series["x"], "GiB": (series["high"] - before).clip(lower=0)})
    forecast, measured = known["forecast_bytes"], known["measured_bytes"]
    st.altair_chart(measured_figure(curve, forecast / GIB, measured / GIB), width="stretch")
    how = ON_CUDA if device == "cuda" else ON_CPU
    off = f", {100 * (forecast - measured) / measured:+.1f} % off" if measured else ""
    st.caption(
        f"Of the whole run: forecast {gib(forecast)}, measured {gib(measured)}{off}. The line is the highest value "
        f"seen so far, taken between steps; the peak inside a step is the dashed line. {how}"
    )


def _go_on(run_id: str, changes: dict[str, Any]) -> None:
    """From the run's last state if there is one, else anew."""
    engine, run = state.get_engine(), find_run(run_id)
    config = changed(run.config(), **changes)
    has_state = bool(list(run.checkpoints.glob("*.safetensors")) or list(run.resume.glob("*.safetensors")))
    name = f"{run.info()['name']}, with less memory"
    new = attempt(
        lambda: engine.fork(run_id, None, config, name=name) if has_state else engine.submit(config, name=name)
    )
    if new is not None:
        state.show_run(new)
