"""Figures of finished runs and comparisons, drawn with Altair: nobody polls them, so they may lose their zoom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import altair as alt
import pandas as pd

from lab.store.cursor import Cursor
from lab.store.curves import Axis, several

Over = Literal["step", "tokens", "seconds", "FLOPs"]
OVER: dict[Over, Axis] = {"step": "step", "tokens": "tokens_seen", "seconds": "elapsed_s", "FLOPs": "flops"}
OVER_LABELS: dict[Over, str] = {
    "step": "step",
    "tokens": "tokens seen",
    "seconds": "training time (s)",
    "FLOPs": "floating point operations of training",
}
MOST_POINTS = 400
"""Of a line. Vega draws up to 500 without making the page slow."""
_COLOURS = 8
"""Of the theme. A ninth run begins them anew, dashed."""
_DASHES = ([1, 0], [6, 3], [2, 2])


@dataclass(frozen=True, kw_only=True)
class Style:
    """How overlaid lines are shown: what the person chose above them."""

    over: Over = "step"
    log_x: bool = False
    log_y: bool = False
    smoothing: float = 0.0
    """Weight of the past in a moving average, 0 to 0.98; the raw line stays faintly behind."""
    best: bool = False
    """Draw the best value so far instead of each value."""


def overlay_data(
    cursor: Cursor, names: Mapping[str, str], metric: str, style: Style, *, points: int = MOST_POINTS
) -> pd.DataFrame:
    """One metric of several runs, below each other.

    Args:
        names: the name to show by run id, all different.

    Returns:
        Columns run, order (of the run), x, step, raw, drawn, low, high. `attrs`: sql, a statement that yields the
        same rows; nonfinite, how many values could not be drawn.
    """
    frame = several(cursor, names, metric, OVER[style.over], points)
    if style.best:
        drawn = frame["best"]
    else:
        drawn = frame.groupby("place")["mean"].transform(lambda means: smoothed(means, style.smoothing))
    columns = {"run": frame["run"], "order": frame["place"], "x": frame["x"], "step": frame["step"]}
    data = pd.DataFrame({**columns, "raw": frame["mean"], "drawn": drawn, "low": frame["low"], "high": frame["high"]})
    left_out = []
    if style.log_x:
        data, left_out = data[data["x"] > 0], ["x > 0"]
    if style.log_y:
        data, left_out = data[(data["drawn"] > 0) & (data["raw"] > 0)], [*left_out, "mean > 0"]
        left_out += ["best > 0"] if style.best else []
    sql = frame.attrs["sql"]
    if left_out:
        sql = f"SELECT * FROM (\n{sql}\n) WHERE {' AND '.join(left_out)} ORDER BY place, step"
    data.attrs = {"sql": sql, "nonfinite": frame.attrs["nonfinite"]}
    return data


def smoothed(values: pd.Series, weight: float) -> pd.Series:
    """A moving average in which the past has this weight; without the usual pull towards the first value.

    Args:
        weight: 0 leaves the values as they are; below 1.
    """
    return values if weight <= 0 else values.ewm(alpha=1 - weight, adjust=True).mean()


def overlay(
    data: pd.DataFrame, *, style: Style, y_title: str, height: int = 380, legend: bool = True
) -> alt.Chart | alt.LayerChart | alt.FacetChart:
    """Lines of several runs over each other. Colours are the theme's, in its order."""
    runs = list(dict.fromkeys(data["run"]))
    shown = data.drop(columns=["low", "high"])
    base = alt.Chart(shown).encode(
        x=alt.X("x:Q", title=OVER_LABELS[style.over], scale=_scale(style.log_x), axis=alt.Axis(format="~s")),
        color=alt.Color(
            "run:N", title=None, sort=runs,
            legend=alt.Legend(orient="top", labelLimit=400, columns=3) if legend else None,
        ),
        detail="run:N",
    )  # fmt: skip
    y = alt.Y("drawn:Q", title=y_title, scale=_scale(style.log_y))
    dash = alt.StrokeDash(
        "run:N", sort=runs, legend=None,
        scale=alt.Scale(domain=runs, range=[_DASHES[place // _COLOURS % len(_DASHES)] for place in range(len(runs))]),
    )  # fmt: skip
    lines = base.mark_line(strokeWidth=1.8, interpolate="step-after" if style.best else "linear").encode(
        y=y,
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("run:N", title="Run"),
            alt.Tooltip("step:Q", title="Step", format=","),
            alt.Tooltip("drawn:Q", title=y_title, format=".4~g"),
        ],
    )
    if not style.smoothing or style.best:
        return lines.properties(height=height).interactive(bind_y=False)
    raw = base.mark_line(strokeWidth=1, opacity=0.22).encode(y=alt.Y("raw:Q", scale=_scale(style.log_y)))
    return alt.layer(raw, lines).properties(height=height).interactive(bind_y=False)


def parallel_coordinates(values: pd.DataFrame) -> alt.Chart | alt.LayerChart | alt.FacetChart:
    """Each run a line over several upright axes, each from its smallest to its largest value.

    Args:
        values: one row per run (the index is its name), one column per axis; words get places in their order.
    """
    lines = parallel_data(values)
    ends = pd.concat(
        [lines.loc[lines.groupby("axis")["place"].idxmin()], lines.loc[lines.groupby("axis")["place"].idxmax()]]
    ).drop_duplicates(["axis", "place"])
    axes = list(values.columns)
    x = alt.X("axis:N", sort=axes, title=None, axis=alt.Axis(labelAngle=-20, labelLimit=180, domain=False))
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[-0.06, 1.06]))
    base = alt.Chart(lines).encode(x=x, y=y)
    drawn = base.mark_line(strokeWidth=2, opacity=0.8).encode(
        color=alt.Color(
            "run:N", title=None, sort=list(values.index), legend=alt.Legend(orient="top", labelLimit=400, columns=3)
        ),
        detail="run:N",
        tooltip=["run:N", "axis:N", "said:N"],
    )
    points = base.mark_point(filled=True, size=45).encode(
        color=alt.Color("run:N", sort=list(values.index), legend=None), tooltip=["run:N", "axis:N", "said:N"]
    )
    said = (
        alt.Chart(ends)
        .mark_text(align="left", dx=7, fontSize=11)
        .encode(x=x, y=y, text="said:N", color=alt.Color("run:N", sort=list(values.index), legend=None))
    )
    return alt.layer(drawn, points, said).properties(height=300)


def parallel_data(values: pd.DataFrame) -> pd.DataFrame:
    """Long rows run, axis, place (0 at the smallest value of the axis, 1 at its largest), said."""
    parts = []
    for axis in values.columns:
        column = values[axis]
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.notna().sum() < column.notna().sum() or column.map(lambda v: isinstance(v, bool)).any():
            words = sorted({str(value) for value in column.dropna()})
            numbers = column.map(lambda value, words=words: None if pd.isna(value) else float(words.index(str(value))))
        low, high = numbers.min(), numbers.max()
        place = (numbers - low) / (high - low) if high > low else numbers * 0 + 0.5
        said = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in column]
        parts.append(pd.DataFrame({"run": values.index, "axis": axis, "place": place.to_numpy(), "said": said}))
    long = pd.concat(parts, ignore_index=True)
    return long[long["place"].notna()]


def told_apart(runs: Mapping[str, str]) -> dict[str, str]:
    """The names, with the end of the id where two runs have the same."""
    names = list(runs.values())
    return {run_id: name if names.count(name) == 1 else f"{name} ({run_id[-4:]})" for run_id, name in runs.items()}


def _scale(log: bool) -> alt.Scale:
    return alt.Scale(type="log" if log else "linear", zero=False, nice=False)
