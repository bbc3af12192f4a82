"""The marked runs' validation loss under the list: a glance before a comparison. It grows while they train."""

from collections.abc import Sequence

from app.ui import palette, state
from app.ui.live_chart import Chart, Line, live_chart
from app.ui.run_charts import points
from app.ui.runs_actions import names_of
from lab.store import series
from lab.store.cursor import Cursor

METRIC = "val/loss"
MOST = len(palette.OTHERS)
"""One line for each colour of the theme."""
_POINTS = 200


def draw_preview(run_ids: Sequence[str]) -> None:
    """Their curves, one line each."""
    names = names_of(run_ids[:MOST])
    lines = state.read(_lines, names)
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


def _lines(cursor: Cursor, names: dict[str, str]) -> list[Line]:
    return [
        Line(
            name=name, points=points(series(cursor, run_id, METRIC, "step", _POINTS)), colour=palette.OTHERS[place],
            exact=True,
        )
        for place, (run_id, name) in enumerate(names.items())
    ]  # fmt: skip
