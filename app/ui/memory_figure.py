"""Pictures of memory: one step, band by band; and what a run took over what was forecast."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import pandas as pd

from app.ui import words

if TYPE_CHECKING:
    from lab.forecast.budget import Budget
    from lab.forecast.finetune_config import FineTuneNeed
    from lab.forecast.memory import CurvePoint, MemoryForecast

    Forecast = MemoryForecast | FineTuneNeed

Point = Mapping[str, Any]
"""Of a step's curve: phase, micro_batch, layer, line, and kinds (bytes by kind)."""

GIB = 2**30
MOST_MOMENTS = 120
BANDS = {
    "weights": ("weights", "quantisation_state", "adapters"),
    "optimizer": ("optimizer",),
    "gradients": ("gradients",),
    "activations": ("activations", "weight_copies"),
    "logits": ("logits",),
    "temporary": ("temporary",),
    "checkpoint copy": (),
    "modelled": (),
}
"""Band of the picture -> kinds of memory, from the bottom up."""
PLACES = {"weights": 0, "activations": 1, "optimizer": 2, "gradients": 3, "modelled": 4, "temporary": 5, "logits": 6,
          "checkpoint copy": 7}  # fmt: skip
"""Band -> place in the theme's colours; what is modelled is grey."""


def is_modelled_drawn(forecast: "Forecast") -> bool:
    """Beside a small run, Python itself would be all that one sees."""
    return sum(part.bytes for part in forecast.modelled) <= 2 * forecast.peak_bytes


def step_figure(forecast: "Forecast", budget: "Budget", text: str) -> alt.LayerChart | alt.FacetChart:
    """Stacked bands over the moments of one step, the peak marked, and the limit where it is near.

    Args:
        text: the theme's colour of text, which Vega does not take by itself.
    """
    table = pd.DataFrame(step_rows(forecast))
    moments = table.groupby(["moment", "phase", "where"], as_index=False).agg(top=("top", "max"))
    peak = moments.loc[moments["top"].idxmax()]
    last = int(table["end"].max())
    high = max(float(peak["top"]) * 1.3, 0.001)
    limit = (budget.limit_bytes + budget.context_bytes) / GIB
    is_near = is_modelled_drawn(forecast) and limit < 3 * high
    if is_near:
        high = max(high, limit * 1.15)
    x = alt.X("moment:Q", axis=None, scale=alt.Scale(domain=[0, last], nice=False))
    scale = alt.Scale(domain=[0, high], nice=False)
    bands = sorted(BANDS, key=PLACES.__getitem__)
    areas = (
        alt.Chart(table)
        .mark_rect(strokeWidth=0)
        .encode(
            x=x,
            x2="end:Q",
            y=alt.Y("bottom:Q", title="GiB", scale=scale),
            y2="top:Q",
            color=alt.Color(
                "kind:N", scale=alt.Scale(domain=bands), legend=alt.Legend(orient="bottom", title=None, columns=4)
            ),
            tooltip=[
                alt.Tooltip("phase:N"), alt.Tooltip("where:N", title="at"), alt.Tooltip("kind:N"),
                alt.Tooltip("GiB:Q", format=".3f"),
            ],
        )
    )  # fmt: skip
    phases = moments.groupby("phase", as_index=False, sort=False).agg(moment=("moment", "min"))
    short = {"evaluation": "eval.", "generation": "sample"}
    phases = phases.assign(top=high, said=[short.get(phase, phase) for phase in phases["phase"]])
    y = alt.Y("top:Q", scale=scale)
    lines = alt.Chart(phases).mark_rule(strokeDash=[2, 3], opacity=0.5, color=text).encode(x=x)
    names = (
        alt.Chart(phases).mark_text(align="left", dx=4, dy=6, baseline="top", color=text).encode(x=x, y=y, text="said")
    )
    is_late = bool(peak["moment"] > last / 2)
    said = f"peak {peak['top']:.2f} GiB: {peak['where']}"
    mark = pd.DataFrame([{"moment": float(peak["moment"]) + 0.5, "top": peak["top"], "said": said}])
    point = alt.Chart(mark).mark_point(filled=True, size=60, opacity=1, color=text).encode(x=x, y=y)
    align: Literal["left", "right"] = "right" if is_late else "left"
    label = alt.Chart(mark).mark_text(align=align, dy=-11, fontWeight="bold", color=text).encode(x=x, y=y, text="said")
    layers = [areas, lines, names, point, label]
    if is_near:
        rule = alt.Chart(pd.DataFrame([{"top": limit, "said": "limit"}]))
        layers.append(rule.mark_rule(strokeDash=[6, 3], size=2, color=text).encode(y=y))
        layers.append(rule.mark_text(align="left", dx=-30, dy=-7, color=text).encode(y=y, text="said"))
    return alt.layer(*layers).properties(height=280)


def step_rows(forecast: "Forecast") -> list[dict[str, object]]:
    """One row per moment and band, with the band's lower and upper end in GiB. Evaluation and generation stand behind
    the step, a few moments wide."""
    moments = [(point.phase, point.line, point.layer, dict(point.kinds)) for point in thinned(forecast.curve)]
    wide = max(2, len(moments) // 10)
    for look in ("evaluation", "generation"):
        if (found := forecast.phases.get(look)) is None:  # a fine-tuning's take no more than its step
            continue
        moments += [(look, found.line, found.layer, dict(found.kinds))] * wide
    on_top = sum(part.bytes for part in forecast.modelled) if is_modelled_drawn(forecast) else 0
    rows: list[dict[str, object]] = []
    for number, (phase, line, layer, kinds) in enumerate(moments):
        where = line if layer is None else f"layer {layer}, {line}"
        bottom = 0
        for band, members in BANDS.items():
            size = sum(size for kind, size in kinds.items() if kind in members)
            size += {"modelled": on_top, "checkpoint copy": forecast.checkpoint_bytes}.get(band, 0)
            if size:
                rows.append(
                    {
                        "moment": number, "end": number + 1, "phase": phase, "where": where, "kind": band,
                        "bottom": bottom / GIB, "top": (bottom + size) / GIB, "GiB": size / GIB,
                    }
                )  # fmt: skip
            bottom += size
    return rows


def laid_over(forecast: "Sequence[Point]", measured: "Sequence[Point]", text: str) -> alt.LayerChart | alt.FacetChart:
    """A step as it was forecast, band by band, and as a line what the real one held.

    Args:
        forecast, measured: as a run keeps them, see `lab.training.memory.Foreseen`.
        text: the theme's colour of text.
    """
    forecast, measured = _thinned(forecast), _thinned(measured)
    rows = []
    for number, point in enumerate(forecast):
        bottom = 0
        for band, members in BANDS.items():
            size = sum(size for kind, size in point["kinds"].items() if kind in members)
            if size:
                rows.append(
                    {
                        "moment": number, "end": number + 1, "phase": point["phase"], "where": point["line"],
                        "kind": band, "bottom": bottom / GIB, "top": (bottom + size) / GIB, "GiB": size / GIB,
                    }
                )  # fmt: skip
            bottom += size
    shown = {row["kind"] for row in rows}
    bands = [band for band in sorted(BANDS, key=PLACES.__getitem__) if band in shown]
    x = alt.X("moment:Q", axis=None, scale=alt.Scale(domain=[0, len(forecast)], nice=False))
    areas = (
        alt.Chart(pd.DataFrame(rows))
        .mark_rect(strokeWidth=0, opacity=0.75)
        .encode(
            x=x, x2="end:Q", y=alt.Y("bottom:Q", title="GiB"), y2="top:Q",
            color=alt.Color("kind:N", scale=alt.Scale(domain=bands),
                            legend=alt.Legend(orient="bottom", title="forecast", columns=3)),
            tooltip=["phase:N", alt.Tooltip("where:N", title="at"), "kind:N", alt.Tooltip("GiB:Q", format=".4f")],
        )
    )  # fmt: skip
    line = pd.DataFrame(measured_rows(forecast, measured))
    drawn = (
        alt.Chart(line)
        .mark_line(color=text, strokeWidth=2, interpolate="step")
        .encode(x=x, y=alt.Y("GiB:Q"), tooltip=["phase:N", alt.Tooltip("GiB:Q", title="measured", format=".4f")])
    )
    top = line.loc[[line["GiB"].idxmax()]].assign(said=f"measured peak {words.data(line['GiB'].max() * GIB)}")
    point = alt.Chart(top).mark_point(filled=True, size=60, opacity=1, color=text).encode(x=x, y="GiB:Q")
    align: Literal["left", "right"] = "right" if float(top["moment"].iloc[0]) > len(forecast) / 2 else "left"
    label = (
        alt.Chart(top).mark_text(align=align, dy=-10, fontWeight="bold", color=text)
        .encode(x=x, y="GiB:Q", text="said")
    )  # fmt: skip
    return alt.layer(areas, drawn, point, label).properties(height=260)


def measured_rows(forecast: "Sequence[Point]", measured: "Sequence[Point]") -> list[dict[str, object]]:
    """Where the points of a measured step stand over those of the forecast one: layer by layer, evenly within each."""
    places = {key: (start, end) for key, start, end in _stretches(forecast)}
    rows: list[dict[str, object]] = []
    for key, first, last in _stretches(measured):
        if key not in places:
            continue
        start, end = places[key]
        for number, point in enumerate(measured[first:last]):
            moment = start + (number + 0.5) / (last - first) * (end - start)
            rows.append({"moment": moment, "GiB": sum(point["kinds"].values()) / GIB, "phase": point["phase"]})
    return rows


def _stretches(points: "Sequence[Point]") -> list[tuple[tuple[object, ...], int, int]]:
    """Neighbours of one phase and layer: which, the how manieth of its like, its first point and past its last."""
    found: list[tuple[tuple[object, ...], int, int]] = []
    times: Counter[tuple[object, ...]] = Counter()
    at = 0
    for key, group in groupby(points, key=lambda point: (point["phase"], point["micro_batch"], point["layer"])):
        count = len(list(group))
        found.append(((*key, times[key]), at, at + count))
        times[key] += 1
        at += count
    return found


def _thinned(points: "Sequence[Point]") -> "list[Point]":
    few = -(-len(points) // MOST_MOMENTS)
    found = []
    for _, group in groupby(points, key=lambda point: (point["phase"], point["micro_batch"])):
        near = list(group)
        found += [
            max(near[at : at + few], key=lambda point: sum(point["kinds"].values())) for at in range(0, len(near), few)
        ]
    return found


def thinned(curve: "tuple[CurvePoint, ...]") -> "list[CurvePoint]":
    """At most so many points as can be told apart: the highest of each few neighbours of one phase."""
    few = -(-len(curve) // MOST_MOMENTS)
    found = []
    for _, group in groupby(curve, key=lambda point: (point.phase, point.micro_batch)):
        points = list(group)
        found += [max(points[at : at + few], key=lambda point: point.bytes) for at in range(0, len(points), few)]
    return found


def measured_figure(
    measured: pd.DataFrame, forecast_gib: float, peak_gib: float | None
) -> alt.LayerChart | alt.FacetChart:
    """What a run took over its steps (columns step, GiB), its highest value, and the forecast as a dashed line."""
    lines = [{"GiB": forecast_gib, "said": f"forecast {forecast_gib:.2f} GiB"}]
    if peak_gib is not None:
        lines.append({"GiB": peak_gib, "said": f"measured peak {peak_gib:.2f} GiB"})
    rules = alt.Chart(pd.DataFrame(lines))
    y = alt.Y("GiB:Q", title="GiB", scale=alt.Scale(zero=True))
    curve = alt.Chart(measured).mark_line(interpolate="step-after").encode(x=alt.X("step:Q", title="step"), y=y)
    dashed = rules.mark_rule(strokeDash=[6, 3]).encode(y=y, color=alt.Color("said:N", title=None))
    return alt.layer(curve, dashed).properties(height=220)
