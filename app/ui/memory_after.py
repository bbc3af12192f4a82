"""Memory after a run: what it took over what was forecast, how good forecasts are, and what to do if it ran out."""

from typing import Any

import pandas as pd
import streamlit as st

from app.ui import state
from app.ui.actions import attempt
from app.ui.memory_figure import measured_figure
from app.ui.memory_panel import gib
from app.ui.show_sql import show_sql
from lab import store
from lab.config import changed
from lab.rundir import find_run
from lab.store.cursor import Cursor

GIB = 2**30
ON_CPU = (
    "On a CPU measured is by how much the whole process grew while the run trained, also through whatever else it "
    "did in that time, and memory that it had kept free before is not seen: below some 100 MiB it says little."
)
ON_CUDA = "On CUDA measured is the most that PyTorch's allocator handed out (max_memory_allocated)."

HISTORY = """\
SELECT coalesce(r.device, 'unknown') AS device, r.name, p.predicted, p.actual,
       100 * (p.predicted - p.actual) / p.actual AS error_percent, p.made_at
FROM predictions p JOIN runs r USING (run_id)
WHERE p.metric = 'system/memory_gib' AND p.who = 'forecast' AND p.actual > 0 AND r.deleted_at IS NULL
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
        _draw_overlay(run_id, known)
    past = state.read(error_history)
    if not past.empty:
        st.markdown("**How good the forecasts have been**")
        st.dataframe(by_device(past), hide_index=True, width="content")
        with st.expander("Each of them"):
            st.dataframe(past, hide_index=True)
            show_sql(HISTORY)


def error_history(cursor: Cursor) -> pd.DataFrame:
    """One row per measured forecast: device, run, GiB forecast and measured, and the error in percent."""
    return cursor.execute(HISTORY).df()


def by_device(past: pd.DataFrame) -> pd.DataFrame:
    """For each device: how many forecasts, their median error and the largest, in percent of what was measured."""
    size = past.assign(size=past["error_percent"].abs())
    table = size.groupby("device", as_index=False).agg(
        Forecasts=("size", "size"), Median=("size", "median"), Largest=("size", "max")
    )
    for name in ("Median", "Largest"):
        table[name] = [f"{value:.1f} %" for value in table[name]]
    return table.rename(columns={"device": "Device", "Median": "Median error", "Largest": "Largest error"})


def draw_out_of_memory(run_id: str) -> None:
    """After a run had too little memory: what would fit, a click away."""
    found = find_run(run_id).info().get("out_of_memory")
    if not found:
        return
    where = f"in the {found['phase']} of step {found['step']:,}" if found["step"] else f"in the {found['phase']}"
    with st.container(border=True):
        st.markdown(f"**It ran out of memory {where}.** These changes would fit; each starts a run with them:")
        for number, one in enumerate(found["advice"]):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption(one["sentence"], width="stretch")
                st.button("Go on with this", key=f"fits_{number}", on_click=_go_on, args=(run_id, one["changes"]))
        if not found["advice"]:
            st.caption("Nothing that changes only how it is computed would fit: take a smaller context or model.")


def _draw_overlay(run_id: str, known: dict[str, Any]) -> None:
    with state.cursor() as cursor:
        series = store.series(cursor, run_id, "system/memory_gib")
        device = store.run_row(cursor, run_id)["device"]
    before = known.get("before_bytes", 0) / GIB
    curve = pd.DataFrame({"step": series["x"], "GiB": (series["high"] - before).clip(lower=0)})
    forecast, measured = known["forecast_bytes"], known["measured_bytes"]
    st.altair_chart(measured_figure(curve, forecast / GIB, measured / GIB), width="stretch")
    off = f", {100 * (forecast - measured) / measured:+.1f} % off" if measured else ""
    st.caption(
        f"Forecast {gib(forecast)}, measured {gib(measured)}{off}. The line is the highest value seen so far, taken "
        f"between steps; the peak inside a step is the dashed line. {ON_CUDA if device == 'cuda' else ON_CPU}"
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
