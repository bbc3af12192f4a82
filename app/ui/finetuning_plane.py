"""What was learnt against what was forgotten: a point for each evaluation."""

import altair as alt
import pandas as pd
import streamlit as st

from app.ui import state
from app.ui.memory_panel import text_colour
from app.ui.show_sql import show_statement
from lab.config import FineTuneConfig
from lab.rundir import find_run
from lab.store import series
from lab.store.cursor import Cursor


def draw_plane(run_id: str) -> None:
    """The plane, and what it says in words."""
    data = state.read(plane_data, run_id)
    if data.empty:
        is_measured = find_run(run_id).config_as(FineTuneConfig).train.forget_tokens > 0
        st.caption(
            "The first point comes with the first evaluation, the path with the second."
            if is_measured
            else "What this run forgets is not measured: its Forgetting text is 0 tokens long."
        )
        return
    st.altair_chart(plane_figure(data, text_colour()), width="stretch")
    st.caption(verdict(data))
    with st.popover("Show the SQL", type="tertiary"):
        show_statement("What was learnt against what was forgotten", statement(run_id))


def plane_data(cursor: Cursor, run_id: str) -> pd.DataFrame:
    """One row per evaluation: step, learnt and forgotten in nats per token against the first, accuracy."""
    found = {
        name: series(cursor, run_id, metric).set_index("step")["last"]
        for name, metric in (("val", "val/loss"), ("story", "forget/loss"), ("accuracy", "forget/accuracy"))
    }
    data = pd.DataFrame(found).dropna(subset=["val", "story"]).reset_index(names="step")
    if data.empty:
        return data
    return data.assign(learnt=data["val"].iloc[0] - data["val"], forgotten=data["story"] - data["story"].iloc[0])


def plane_figure(data: pd.DataFrame, text: str) -> alt.LayerChart | alt.FacetChart:
    """A path from the corner, where nothing is learnt and nothing forgotten.

    Args:
        text: the theme's colour of text, which Vega does not take by itself.
    """
    data = data.assign(name=data["step"].map(lambda step: f"step {int(step):,}"))
    reach = max(0.05, float(data["forgotten"].abs().max()) * 1.15)
    learnt = max(0.1, float(data["learnt"].max()) * 1.05)
    x = alt.X(
        "learnt:Q",
        title="learnt: fall of the validation loss (nats per token)",
        scale=alt.Scale(domain=[min(0.0, float(data["learnt"].min())), learnt]),
        axis=alt.Axis(tickCount=5),
    )
    y = alt.Y(
        "forgotten:Q", title="forgotten: rise on an old story", scale=alt.Scale(domain=[min(0.0, -0.1 * reach), reach])
    )
    tip = [
        alt.Tooltip("name:N", title="at"),
        alt.Tooltip("learnt:Q", format=".3f"),
        alt.Tooltip("forgotten:Q", format=".3f"),
        alt.Tooltip("accuracy:Q", format=".0%", title="simple questions right"),
    ]
    base = alt.Chart(data).encode(x, y, tooltip=tip)
    path = base.mark_line(opacity=0.5).encode(order="step:O")
    points = base.mark_point(filled=True, size=80)
    ends = alt.Chart(data.iloc[[0, -1]]).mark_text(dy=-12, color=text).encode(x, y, text="name:N")
    return alt.layer(path, points, ends).properties(height=260)


def verdict(data: pd.DataFrame) -> str:
    """The newest point in words."""
    how = (
        "Right is learnt, up is forgotten: the best way runs along the bottom. The story and forty simple questions "
        "are never trained on. "
    )
    last = data.iloc[-1]
    if len(data) < 2:
        return how
    right = ""
    if pd.notna(last["accuracy"]):
        right = f"; of the questions it answers {last['accuracy']:.0%} instead of {data['accuracy'].iloc[0]:.0%}"
    word = "nothing to speak of" if last["forgotten"] < 0.02 else f"{last['forgotten']:.2f} nats per token"
    return f"{how}At step {int(last['step']):,}: learnt {last['learnt']:.2f}, forgotten {word}{right}."


def statement(run_id: str) -> str:
    """The same points by SQL."""
    return (
        "PIVOT (SELECT step, name, value FROM metrics\n"
        f"  WHERE run_id = '{run_id}' AND name IN ('val/loss', 'forget/loss', 'forget/accuracy'))\n"
        "ON name USING last(value) GROUP BY step ORDER BY step"
    )
