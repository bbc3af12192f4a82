"""The marked runs' validation loss under the list: a glance before a comparison. It grows while they train."""

from collections.abc import Sequence

import pandas as pd

from app.ui import palette, state
from app.ui.live_chart import Chart, Line, live_chart
from app.ui.run_charts import points
from app.ui.runs_actions import names_of
from app.ui.show_sql import show_sql
from lab.store import several

METRIC = "val/loss"
MOST = len(palette.OTHERS)
"""One line for each colour of the theme."""
_POINTS = 200


def draw_preview(run_ids: Sequence[str]) -> None:
    """Their curves, one line each."""
    names = names_of(run_ids[:MOST])
    if not names:
        return
    curves = state.read(several, names, METRIC, max_points=_POINTS)
    lines = _lines(curves, names)
    if all(line.points.empty for line in lines):
        return
    more = f"The first {MOST} of the {len(run_ids)} marked. " if len(run_ids) > MOST else ""
    live_chart(
        Chart(
            title="Validation loss",
            y_label="nats per token",
            lines=lines,
            group=",".join(names),
            note=f"{more}Lower is better. Compare shows other figures, settings and what is luck.",
            height=220,
        ),
        key="runs_preview",
    )
    show_sql(curves.attrs["sql"])


def _lines(curves: pd.DataFrame, names: dict[str, str]) -> list[Line]:
    return [
        Line(name=name, points=points(curves[curves["place"] == place]), colour=palette.OTHERS[place], exact=True)
        for place, name in enumerate(names.values())
    ]
