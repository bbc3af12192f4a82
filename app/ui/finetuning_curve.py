"""Reading the curve of a fine-tuning: what its drops and rises mean, each marked where it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import streamlit as st

from app.ui.live_chart import Chart, Marker, XKind
from app.ui.run_charts import AXES
from lab.rundir import find_run
from lab.store import series
from lab.store.cursor import Cursor

_RISE = 0.02
"""By how much (relative) the validation loss has to rise above its lowest value to be called overfitting."""
_MOST_EPOCHS = 12


@dataclass(frozen=True)
class Reading:
    """Something to see in the curve."""

    step: int
    x: dict[XKind, float]
    label: str
    sentence: str


def readings(cursor: Cursor, run_id: str) -> list[Reading]:
    """The drop of the first steps, the beginning of each further pass over the rows, the onset of overfitting."""
    train, val = (series(cursor, run_id, name) for name in ("train/loss", "val/loss"))
    if train.empty:
        return []
    places = {kind: series(cursor, run_id, "train/loss", axis) for kind, axis in AXES.items()}

    def made(step: int, label: str, sentence: str) -> Reading:
        x = {kind: float(np.interp(step, one["step"], one["x"])) for kind, one in places.items()}
        return Reading(step, x, label, sentence)

    found = []
    dropped = first_drop(train)
    if dropped is not None:
        step, share = dropped
        found.append(
            made(
                step,
                "format learnt",
                f"**Steps 1 to {step:,}**: {share:.0%} of all that the training loss fell, it fell here. That is the "
                "form of the answers, which is easy: how they begin, how long they are, where they end.",
            )
        )
    per_epoch = (find_run(run_id).info().get("resolved") or {}).get("steps_per_epoch")
    last = int(train["step"].max())
    if per_epoch:
        count = int(last / per_epoch)
        for epoch in range(1, min(count, _MOST_EPOCHS) + 1):
            sentence = (
                f"**Each pass is {per_epoch:,.0f} steps**: from the second on the model reads rows it has read before. "
                "A step down at such a line is memory, not understanding: the validation loss tells which."
                if epoch == 1
                else ""
            )
            found.append(made(round(epoch * per_epoch), f"pass {epoch + 1}", sentence))
    onset = overfitting(val)
    if onset is not None:
        found.append(
            made(
                onset,
                "overfitting",
                f"**From step {onset:,}** the validation loss rises again while the training loss falls: what is still "
                "learnt holds for the training rows only. An earlier checkpoint, or fewer passes, is better.",
            )
        )
    return found


def first_drop(train: pd.DataFrame) -> tuple[int, float] | None:
    """The step by which most of the fall was over, and its share of the whole; None when it is not steep.

    Looked for within the first fifth of the steps: half of the whole fall or more within them is steep.
    """
    if len(train) < 15:
        return None
    values, steps = train["mean"].to_numpy(), train["step"].to_numpy()
    smooth = pd.Series(values).rolling(5, min_periods=1).mean().to_numpy()
    fall = smooth[0] - smooth.min()
    place = max(5, len(smooth) // 5)
    share = (smooth[0] - smooth[place]) / fall if fall > 0 else 0.0
    return (int(steps[place]), float(min(1.0, share))) if share >= 0.5 else None


def overfitting(val: pd.DataFrame) -> int | None:
    """The step of the lowest validation loss, when at least the last evaluation lies clearly above it."""
    if len(val) < 3:
        return None
    values, steps = val["last"].to_numpy(), val["step"].to_numpy()
    lowest = int(values.argmin())
    return int(steps[lowest]) if values[-1] > (1 + _RISE) * values[lowest] else None


def with_readings(chart: Chart, found: Sequence[Reading], kind: XKind) -> Chart:
    """The chart with a mark for each reading."""
    return replace(chart, markers=[*chart.markers, *(Marker(x=one.x[kind], label=one.label) for one in found)])


def draw_reading(found: Sequence[Reading]) -> None:
    """What the marks mean, in words."""
    said = [one.sentence for one in found if one.sentence]
    if said:
        with st.expander("Reading the curve"):
            st.markdown("\n".join(f"- {sentence}" for sentence in said))
