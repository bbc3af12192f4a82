"""Linear probes: can a property of the text be read off each layer, and what has that to beat?"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.ui.heatmaps import draw
from app.ui.messages import plain, speaking
from app.ui.model_choice import Choice
from app.ui.words_of_looking import concept, export

if TYPE_CHECKING:
    from lab.analysis.probe_data import ProbeTask
    from lab.analysis.probes import Accuracy, ProbeReport
    from lab.sessions import ModelSession

PROPERTIES = {
    "next": "Class of the next character",
    "position": "Quarter of the text",
    "sentiment": "Good or bad word in the sentence",
    "own": "Own labels (CSV)",
}
_REPORT = "probe_report"


def draw_probes(session: "ModelSession", choice: Choice) -> None:
    """Choose a property, train a probe on each row of the stream, and see it beside its controls."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        asked_for = st.segmented_control(
            "Property", list(PROPERTIES), format_func=lambda name: PROPERTIES[name], default="next", required=True,
            key="probe_property", persist_state="session",
        )  # fmt: skip
        kind = st.segmented_control(
            "Probe", ["ridge", "logistic"], default="ridge", required=True, key="probe_kind", persist_state="session",
            help="ridge: least squares, seconds. logistic: a little stronger, many times slower.",
        )  # fmt: skip
    content = b""
    if asked_for == "own":
        file = st.file_uploader("A CSV file with the columns text and label", type="csv", key="probe_csv")
        content = file.getvalue() if file is not None else b""
    asked = (choice.ref, choice.precision, asked_for, kind, len(content))
    ready = asked_for != "own" or bool(content)
    if st.button("Train the probes", type="primary", key="probe", disabled=not ready):
        bar = st.progress(0.0, text="Reading texts …")
        with speaking():
            st.session_state[_REPORT] = (
                asked,
                _train(session, asked_for or "next", kind or "ridge", content, bar.progress),
            )
        bar.empty()
    kept = st.session_state.get(_REPORT)
    if kept is not None and kept[0] == asked:
        task, report = kept[1]
        _draw_report(report, task, choice)


def _train(
    session: "ModelSession", asked_for: str, kind: str, content: bytes, show: Callable[..., Any]
) -> tuple["ProbeTask", "ProbeReport"]:
    from lab.sessions.probing import probe

    return probe(
        session, asked_for, kind=kind, content=content,  # type: ignore[arg-type]
        progress=lambda share, sentence: show(share, text=sentence),
    )  # fmt: skip


def _draw_report(report: "ProbeReport", task: "ProbeTask", choice: Choice) -> None:
    from lab.analysis.probes import DECODABLE_IS_NOT_USED

    names = ["embedding", *(f"after {layer}" for layer in range(len(report.rows) - 1))]
    figure = go.Figure()
    _add(figure, "read off this row", report.rows, names, bars=True)
    if report.control:
        _add(figure, "control task: random class per token", report.control, names)
    _add(figure, "shuffled labels", report.shuffled, names)
    for name, values in report.baselines.items():
        _add(figure, name, values if len(values) == len(names) else values * len(names), names)
    figure.add_hline(y=report.majority, line_dash="dot", annotation_text="always the commonest class")
    figure.update_yaxes(title="accuracy on texts held out", range=[0, 1.02], tickformat=".0%")
    figure.update_xaxes(title="row of the stream")
    figure.update_layout(
        height=380, margin={"l": 8, "r": 8, "t": 8, "b": 8}, legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    draw(figure, key="probes", name=f"probes-{plain(choice.name)}")
    st.info(DECODABLE_IS_NOT_USED)
    st.caption(
        f"{report.n_train:,} examples to train, {report.rows[0].n:,} to judge, {report.n_classes} classes "
        f"({plain(', '.join(task.names))}). Bars: 95 % intervals. What counts is the distance to the lines below it. "
        f"{concept('lenses-and-probes')}"
    )
    frame = pd.DataFrame(
        {
            "row": names,
            "accuracy": [one.value for one in report.rows],
            "low": [one.low for one in report.rows],
            "high": [one.high for one in report.rows],
            "shuffled": [one.value for one in report.shuffled],
            **({"control": [one.value for one in report.control]} if report.control else {}),
            **{name: [one.value for one in values] for name, values in report.baselines.items()},
        }
    )
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(frame, hide_index=True, column_config=dict.fromkeys(frame.columns[1:], percent))
    export(frame, name=f"probes-{choice.name}", key="probes_csv")


def _add(figure: go.Figure, name: str, values: "list[Accuracy]", names: list[str], *, bars: bool = False) -> None:
    interval = {
        "array": [one.high - one.value for one in values], "arrayminus": [one.value - one.low for one in values],
    }  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=names, y=[one.value for one in values], name=name, mode="lines+markers",
            error_y=interval if bars else None, line={"width": 3 if bars else 1.5},
        )
    )  # fmt: skip
