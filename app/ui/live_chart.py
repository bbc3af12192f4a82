"""A chart for a run that is going on: it redraws its lines at every poll and keeps the zoom.

Vega and Plotly lose the zoom at each update and keep the browser busy; a canvas of our own does neither.
Finished figures that nobody polls are drawn with Altair: `charts.py`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st

from app.ui import palette

XKind = Literal["step", "tokens", "seconds"]
X_LABELS: dict[XKind, str] = {
    "step": "step",
    "tokens": "tokens seen",
    "seconds": "training time",
}

_FOLDER = Path(__file__).parent
_HTML = """
<figure>
  <header>
    <span class="title"></span><span class="legend"></span>
    <span class="tools">
      <button type="button" class="all" title="Show the whole run (double click does the same)">All</button>
      <button type="button" class="png" title="Save the picture">PNG</button>
      <button type="button" class="csv" title="Save the points that are drawn">CSV</button>
      <button type="button" class="numbers" title="The values as a table" aria-expanded="false">Table</button>
    </span>
  </header>
  <div class="plot"><canvas role="img" tabindex="0"></canvas><div class="readout" hidden></div></div>
  <div class="note"></div>
  <div class="table" hidden></div>
</figure>
"""

# Registered once, when the module is first imported. Streamlit wants the code itself, not a path to it.
_component = st.components.v2.component(
    "live_chart",
    html=_HTML,
    css=(_FOLDER / "live_chart.css").read_text(encoding="utf-8"),
    js="\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("live_chart.js", "chart_parts.js")),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One named line.

    `points` has the columns x, low, high, value: for each bucket of steps its lowest, highest and mean
    value. A point that stands for one value has low = high = value.
    """

    name: str
    points: pd.DataFrame
    colour: int = palette.TRAIN
    faint: bool = False
    dashed: bool = False
    exact: bool = False
    """Never smoothed: few points that each mean something, such as evaluations."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A horizontal line to compare with, such as ln(vocabulary)."""

    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A moment on the x axis that has a name, such as a resume."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the lines are shown: what the person chose above the chart."""

    x: XKind = "step"
    log_x: bool = False
    log_y: bool = False
    smoothing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything one live chart shows."""

    title: str
    y_label: str
    lines: Sequence[Line]
    group: str
    """Charts with the same group zoom together. A run's id is part of it, so that a new run starts whole."""
    references: Sequence[Reference] = ()
    markers: Sequence[Marker] = ()
    note: str = ""
    empty: str = "Nothing measured yet."
    height: int = 320
    look: Look = field(default_factory=Look)


def live_chart(chart: Chart, *, key: str) -> None:
    """Draw the chart. Call it again with the same key and longer lines; the zoom stays."""
    _component(key=key, data=payload(chart), height="content", width="stretch")


def payload(chart: Chart) -> dict[str, Any]:
    """What is sent to the browser: one table of points, and a few words about each line."""
    look = chart.look
    return {
        "points": points_table(chart.lines),
        "lines": [
            {"name": line.name, "colour": line.colour, "faint": line.faint, "dashed": line.dashed, "exact": line.exact}
            for line in chart.lines
        ],
        "options": {
            "title": chart.title,
            "y_label": chart.y_label,
            "x_label": X_LABELS[look.x],
            "x_kind": look.x,
            "group": f"{chart.group}/{look.x}",
            "references": [asdict(reference) for reference in chart.references],
            "markers": [asdict(marker) for marker in chart.markers],
            "note": chart.note,
            "empty": chart.empty,
            "height": chart.height,
            "log_x": look.log_x,
            "log_y": look.log_y,
            "smoothing": look.smoothing,
        },
    }


def points_table(lines: Sequence[Line]) -> pd.DataFrame:
    """All lines below each other, sorted by x, without anything that is not a finite number.

    Types are small on purpose: the table is sent at every poll.
    """
    parts = []
    for number, line in enumerate(lines):
        part = line.points[["x", "low", "high", "value"]].astype("float64")
        part = part[np.isfinite(part).all(axis=1)].sort_values("x", kind="stable")
        parts.append(part.assign(line=number))
    columns = {"line": "int16", "x": "float64", "low": "float32", "high": "float32", "value": "float32"}
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return pd.concat(parts, ignore_index=True)[list(columns)].astype(columns)
