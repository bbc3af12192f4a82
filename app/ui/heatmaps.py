"""Heatmaps with tokens on their axes, as Plotly figures: hover values, zoom, and a picture to save."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

MOST_LABELS = 60
LONGEST_LABEL = 14
SEQUENTIAL = "Viridis"
DIVERGING = "RdBu_r"


def shorten(label: str, longest: int = LONGEST_LABEL) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"


def places(tokens: Sequence[str]) -> list[str]:
    """A name for each position that is unlike all others: its number and the whole token."""
    return [f"{number} {token}" for number, token in enumerate(tokens)]


def ticks(names: Sequence[str], labels: Sequence[str], most: int = MOST_LABELS) -> dict[str, Any]:
    """Axis settings: every label while they fit, else each second, fourth, …; long ones cut."""
    every = 1
    while len(names) / every > most:
        every *= 2
    chosen = range(0, len(names), every)
    return {
        "tickmode": "array",
        "tickvals": [names[i] for i in chosen],
        "ticktext": [_escaped(shorten(labels[i])) for i in chosen],
        "type": "category",
        "title": None,
    }


def _escaped(text: str) -> str:
    """Plotly reads a few tags; a token may look like one."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def token_heatmap(
    weights: NDArray[np.floating],
    tokens: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    top: float | None = None,
    diverging: bool = False,
) -> go.Figure:
    """Attention: queries downwards, keys to the right, [query_pos, key_pos].

    Args:
        names: of each place, in full; its number and token when left out.
        top: the weight that gets the brightest colour; `brightest` when left out.
        diverging: differences, centred at 0.
    """
    names = places(tokens) if names is None else names
    shown = weights.astype(np.float64)
    future = np.triu(np.ones(shown.shape, dtype=bool), 1)
    shown = np.where(future, np.nan, shown)
    largest = (brightest(weights) if top is None else top) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=np.round(shown, 5),
            x=[_escaped(name) for name in names],
            y=[_escaped(name) for name in names],
            zmin=-largest if diverging else 0,
            zmax=largest,
            colorscale=DIVERGING if diverging else SEQUENTIAL,
            hoverongaps=False,
            hovertemplate="<b>%{y}</b> looks at <b>%{x}</b>: %{z:.4f}<extra></extra>",
            colorbar={"title": {"text": "difference" if diverging else "weight", "side": "right"}, "thickness": 12},
        )
    )
    axis = ticks([_escaped(name) for name in names], tokens, MOST_LABELS // 2)  # it has half of the page's width
    figure.update_xaxes(**axis, tickangle=-90, constrain="domain", showgrid=False)
    figure.update_yaxes(
        **axis, autorange="reversed", scaleanchor="x", constrain="domain", constraintoward="top", showgrid=False,
    )  # fmt: skip
    figure.update_layout(height=560, margin={"l": 8, "r": 8, "t": 8, "b": 8}, dragmode="zoom")
    return figure


def pooled(
    weights: NDArray[np.floating], tokens: Sequence[str], most: int
) -> tuple[NDArray[np.floating], list[str], list[str]]:
    """A long text's weights in at most `most` rows and columns: of the cells that fall together the one that is
    furthest from 0, so that a thin line stays a line.

    Returns:
        The weights, the first token of each place, and its name in full.
    """
    length = len(tokens)
    size = -(-length // most)
    starts = np.arange(0, length, size)
    flat = np.abs(np.tril(weights))
    largest = np.maximum.reduceat(np.maximum.reduceat(flat, starts, axis=0), starts, axis=1)
    if (weights < 0).any():  # a difference: the sign of what is furthest from 0
        high = np.maximum.reduceat(np.maximum.reduceat(np.tril(weights), starts, axis=0), starts, axis=1)
        largest = np.where(high >= largest, largest, -largest)
    names = [f"{start}–{min(start + size, length) - 1} {tokens[start]} …" for start in starts]
    return largest, [tokens[start] for start in starts], names


def brightest(weights: NDArray[np.floating], *, skip_first_key: bool = False) -> float:
    """The weight that gets the brightest colour: the largest, but not of the first queries, which have no choice.

    The first query sees itself alone, so its weight is always 1, and would leave no colour for the others.
    """
    early = min(max(4, len(weights) // 16), len(weights) // 2)  # few keys to choose from, so each gets much
    rows = weights[early:, 1 if skip_first_key and len(weights) > 1 else 0 :]
    return float(np.abs(rows).max())


def layer_heatmap(
    values: NDArray[np.floating],
    columns: Sequence[object],
    *,
    unit: str,
    rows: Sequence[str] | None = None,
    diverging: bool = False,
    column_title: str = "head",
    row_title: str = "layer",
    number: str = ".3f",
    height: int | None = None,
    text: NDArray[np.object_] | None = None,
    written: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> go.Figure:
    """Layers downwards, heads or tokens to the right: [layer, column].

    Args:
        text: a word for each cell, told when one points at it.
        written: put it into the cells as well, cut to fit.
        low, high: ends of the colour scale.
    """
    words_of_columns = [str(column) for column in columns]
    names = places(words_of_columns) if column_title == "token" else words_of_columns
    row_names = [str(row) for row in (rows if rows is not None else range(len(values)))]
    if diverging:
        high = float(np.nanmax(np.abs(values))) or 1.0 if high is None else high
        low = -high
    words: dict[str, Any] = {}
    if text is not None:
        full = np.vectorize(_escaped, otypes=[object])(text)
        longest = 7 if len(columns) <= 10 else 5  # plotly sizes all words so that the longest fits
        cut = np.vectorize(lambda word: _escaped(shorten(word, longest)), otypes=[object])(text)
        words = {"customdata": full, "text": cut}
        if written:  # light letters with a dark edge can be read on every colour of the scale
            words |= {"texttemplate": "%{text}", "textfont": {"color": "white", "shadow": "auto"}}
    said = "" if text is None else " says <b>%{customdata}</b>"
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[_escaped(name) for name in names],
            y=row_names,
            zmin=low,
            zmax=high,
            colorscale=DIVERGING if diverging else SEQUENTIAL,
            hoverongaps=False,
            hovertemplate=f"{row_title} %{{y}}, {column_title} %{{x}}{said}: %{{z:{number}}}<extra></extra>",
            colorbar={"title": {"text": unit, "side": "right"}, "thickness": 12},
            xgap=1,
            ygap=1,
            **words,
        )
    )
    figure.update_xaxes(**ticks([_escaped(n) for n in names], words_of_columns))
    if column_title == "token":
        figure.update_xaxes(tickangle=-90)
    else:
        figure.update_xaxes(title=column_title)
    figure.update_yaxes(type="category", autorange="reversed", title=row_title)
    figure.update_layout(
        height=height or max(240, min(760, 90 + 24 * len(values))), margin={"l": 8, "r": 8, "t": 8, "b": 8}
    )
    return figure


def lines(
    series: Mapping[str, Sequence[float] | NDArray[np.floating]], x: Sequence[float], *, x_title: str, y_title: str,
    log_y: bool = False, height: int = 320,
) -> go.Figure:  # fmt: skip
    """A few named lines over layers or steps, in the theme's colours."""
    figure = go.Figure(
        [go.Scatter(x=list(x), y=list(y), name=name, mode="lines+markers") for name, y in series.items()]
    )
    whole = {"dtick": 1} if len(x) and max(x) <= 16 and x_title != "step" else {}  # there is no layer 0.4
    figure.update_xaxes(title=x_title, **whole)
    figure.update_yaxes(title=y_title, type="log" if log_y else "linear")
    figure.update_layout(
        height=height, margin={"l": 8, "r": 8, "t": 8, "b": 8}, hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure


def draw(figure: go.Figure, *, key: str, name: str) -> Any:
    """Put it on the page. Its camera button saves `name`.png."""
    return st.plotly_chart(
        figure,
        key=key,
        config={
            "displaylogo": False,
            "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        },
    )


def scatter(points: NDArray[np.floating], tokens: Sequence[str], explained: NDArray[np.floating]) -> go.Figure:
    """Tokens as dots on two directions: [n, 2]; coloured from the beginning of the text to its end."""
    second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    figure = go.Figure(
        go.Scatter(
            x=points[:, 0],
            y=second,
            mode="markers+text" if len(tokens) <= 60 else "markers",
            text=[_escaped(shorten(token)) for token in tokens],
            textposition="top center",
            hovertext=[_escaped(name) for name in places(tokens)],
            hoverinfo="text",
            marker={"color": np.arange(len(tokens)), "colorscale": SEQUENTIAL, "size": 8},
        )
    )
    share = [f"{100 * float(value):.0f} % of the spread" for value in explained[:2]] + ["none"]
    figure.update_xaxes(title=f"first direction, {share[0]}")
    figure.update_yaxes(title=f"second direction, {share[1]}")
    figure.update_layout(height=400, margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False)
    return figure
