"""From the record to the live charts of a run. Reading and arranging only; `live_chart` draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import numpy as np
import pandas as pd

from app.ui import palette, words
from app.ui.live_chart import Chart, Line, Look, Marker, Reference, XKind
from lab.store import events, run_row, series
from lab.store.cursor import Cursor

AXES: dict[XKind, Literal["step", "tokens_seen", "elapsed_s"]] = {
    "step": "step",
    "tokens": "tokens_seen",
    "seconds": "elapsed_s",
}
MARKED = {"resumed": "resumed", "warning": "warning", "forked": "forked", "failed": "failed"}
"""Kinds of events that are marked in the loss chart, and the word beside the mark."""

_LOSS_POINTS = 1_000
_SMALL_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class SmallChart:
    """One of the small multiples under the loss."""

    metric: str
    title: str
    y_label: str
    exact: bool = False


SMALL_CHARTS = (
    SmallChart(metric="train/learning_rate", title="Learning rate", y_label="per update", exact=True),
    SmallChart(metric="train/grad_norm", title="Gradient norm", y_label="before clipping"),
    SmallChart(metric="train/tokens_per_second", title="Speed", y_label="tokens per second"),
    SmallChart(metric="system/memory_gib", title="Memory, peak", y_label="GiB", exact=True),
)


def most_points(metric: str) -> int:
    """Into how many points at most a curve of a run is thinned."""
    return _LOSS_POINTS if metric == "train/loss" else _SMALL_POINTS


def points(frame: pd.DataFrame) -> pd.DataFrame:
    """A series of the record as the points of a line: per bucket the lowest, highest and mean value."""
    return frame[["x", "low", "high"]].assign(value=frame["mean"])


def loss_chart(
    cursor: Cursor,
    run_id: str,
    *,
    look: Look,
    vocab_size: int | None,
    history: Sequence[str] = (),
    guess: float | None = None,
) -> Chart:
    """Train and validation loss of a run, over faint lines of runs of the past.

    Args:
        vocab_size: for the line of a model that knows nothing; None while it is not known.
        history: run ids whose validation loss is laid under it.
        guess: the validation loss that the person expects.
    """
    axis = AXES[look.x]
    train = series(cursor, run_id, "train/loss", axis, most_points("train/loss"))
    validation = series(cursor, run_id, "val/loss", axis, _SMALL_POINTS)
    past = [
        Line(
            name=run_row(cursor, other)["name"],
            points=points(series(cursor, other, "val/loss", axis, _SMALL_POINTS)),
            colour=palette.BASE,
            faint=True,
            exact=True,
        )
        for other in history
        if other != run_id
    ]
    references = []
    if vocab_size:
        nothing = log(vocab_size)
        references.append(Reference(y=nothing, label=f"knows nothing: ln({vocab_size:,}) = {nothing:.2f}"))
    if guess is not None:
        references.append(Reference(y=guess, label=f"your guess: {guess:g}"))
    return Chart(
        title="Loss",
        y_label="nats per token",
        lines=[
            *past,
            Line(name="train", points=points(train), colour=palette.TRAIN),
            Line(name="validation", points=points(validation), colour=palette.VALIDATION, exact=True),
        ],
        group=run_id,
        references=references,
        markers=markers(events(cursor, run_id), train),
        note=note(train.attrs),
        look=look,
        height=340,
    )


def small_charts(cursor: Cursor, run_id: str, look: Look) -> list[Chart]:
    """Learning rate, gradient norm, speed and memory, over the same x as the loss."""
    charts = []
    for small in SMALL_CHARTS:
        frame = series(cursor, run_id, small.metric, AXES[look.x], _SMALL_POINTS)
        line = Line(name=small.title, points=points(frame), colour=palette.TRAIN, exact=small.exact)
        # The log axis is about the loss; a learning rate or a memory reads better on a plain one.
        plain = Look(x=look.x, log_x=look.log_x, smoothing=look.smoothing)
        charts.append(
            Chart(title=small.title, y_label=small.y_label, lines=[line], group=run_id, look=plain, height=170)
        )
    return charts


def markers(happened: pd.DataFrame, train: pd.DataFrame) -> list[Marker]:
    """Events at their place on the x axis, found between the points of the training loss."""
    if happened.empty or train.empty:
        return []
    found = []
    for event in happened.to_dict("records"):
        if event["kind"] in MARKED and event["step"] is not None and not pd.isna(event["step"]):
            at = float(np.interp(event["step"], train["step"], train["x"]))
            found.append(Marker(x=at, label=MARKED[event["kind"]]))
    return found


def note(attrs: dict[str, Any]) -> str:
    """What the picture leaves out: thinning, and values that cannot be drawn."""
    parts = ["Lower is better. Drag to zoom, shift-drag to move, double click for all."]
    if attrs["bucket"] > 1:
        parts.append(
            f"Each training point stands for {attrs['bucket']:,} steps; the band spans their lowest and highest loss."
        )
    if attrs["nonfinite"]:
        steps = ", ".join(words.count(step) for step in attrs["nonfinite_steps"][:5])
        parts.append(f"{attrs['nonfinite']:,} losses were not finite and are not drawn (steps {steps}).")
    return " ".join(parts)
