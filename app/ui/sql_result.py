"""An answer of the console: rows, a chart of them, and files to take away."""

import io
from typing import TYPE_CHECKING

import altair as alt
import pandas as pd
import streamlit as st

from app.ui.messages import plain, show_error
from app.ui.sql_question import Question

if TYPE_CHECKING:
    from lab.store import SqlAnswer

MOST_POINTS = 5_000
"""Points of a chart at most, over all lines."""
_AXES = ("step", "tokens_seen", "elapsed_s")
_NAMES = ("run", "name", "run_id", "metric")
"""Columns that tell lines apart, in the order in which they are tried."""


def draw_answer(question: Question) -> None:
    """What came of a question that is done."""
    if question.error is not None:
        show_error(question.error)
        return
    answer = question.answer
    assert answer is not None
    frame = answer.frame()
    if list(frame.columns) == ["explain_key", "explain_value"]:
        st.code("\n".join(frame["explain_value"]), language=None)
        return
    said = f"{len(frame):,} row{'s' if len(frame) != 1 else ''} in {question.seconds:.2f} s"
    if answer.as_of is not None:
        said += f", as of {answer.as_of:%H:%M:%S} UTC"
    st.caption(f"{said}.")
    if answer.notice:
        st.warning(plain(answer.notice))
    _draw_chart(frame)
    st.dataframe(frame, hide_index=True, height=min(420, 38 + 35 * max(1, len(frame))))
    _draw_exports(answer)


def chart_of(frame: pd.DataFrame) -> alt.Chart | None:
    """Lines over the step column of a result: every other column of numbers, one line per run where it says which.

    Returns:
        None where there is no step column, or no number to draw over it.
    """
    x = next((name for name in _AXES if name in frame.columns), None)
    if x is None or frame.empty or not pd.api.types.is_numeric_dtype(frame[x]):
        return None
    names = [name for name in _NAMES if name in frame.columns and not pd.api.types.is_numeric_dtype(frame[name])]
    values = [name for name in frame.columns if name not in (*_AXES, *names) and _is_number(frame[name])]
    if not values:
        return None
    long = frame.melt(id_vars=[x, *names], value_vars=values, var_name="figure", value_name="drawn")
    long = long[pd.to_numeric(long["drawn"], errors="coerce").notna()]
    parts = [*(long[name].astype(str) for name in names), *([long["figure"]] if len(values) > 1 or not names else [])]
    long["line"] = parts[0] if len(parts) == 1 else parts[0].str.cat(parts[1:], sep=" · ")
    title = values[0] if len(values) == 1 else "value"
    return (
        alt.Chart(thinned(long, x)[[x, "line", "drawn"]])
        .mark_line(strokeWidth=1.8, point=len(long) < 60)
        .encode(
            x=alt.X(f"{x}:Q", title=x),
            y=alt.Y("drawn:Q", title=title, scale=alt.Scale(zero=False, nice=False)),
            color=alt.Color("line:N", title=None, sort=None, legend=alt.Legend(orient="top", labelLimit=400)),
            tooltip=["line:N", f"{x}:Q", alt.Tooltip("drawn:Q", title=title, format=".5~g")],
        )
        .properties(height=340)
        .interactive(bind_y=False)
    )


def thinned(long: pd.DataFrame, x: str) -> pd.DataFrame:
    """At most so many points: every n-th of each line, always with its last."""
    every = -(-len(long) // MOST_POINTS)
    if every <= 1:
        return long
    long = long.sort_values(["line", x], kind="stable")
    place = long.groupby("line").cumcount()
    last = long.groupby("line")["line"].transform("size") - 1
    return long[(place % every == 0) | (place == last)]


def _draw_chart(frame: pd.DataFrame) -> None:
    chart = chart_of(frame)
    if chart is None:
        return
    if st.toggle("Chart it", key="sql_chart", persist_state="session", help="Lines over the result's step column."):
        st.altair_chart(chart)
        if len(frame) > MOST_POINTS:
            st.caption(f"Of {len(frame):,} rows every n-th is drawn: about {MOST_POINTS:,} points. The table has all.")


def _draw_exports(answer: "SqlAnswer") -> None:
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "CSV", lambda: answer.text("csv").encode(), "answer.csv", "text/csv", key="sql_csv", on_click="ignore"
        )
        st.download_button(
            "Parquet", lambda: _parquet(answer), "answer.parquet", "application/vnd.apache.parquet",
            key="sql_parquet", on_click="ignore",
        )  # fmt: skip
        st.caption('The rows above. For more than fit here: `lab sql "…" --out FILE` in a terminal.')


def _parquet(answer: "SqlAnswer") -> bytes:
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(answer.table, buffer)
    return buffer.getvalue()


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
