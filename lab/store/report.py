"""One run as a page that needs nothing else: no network, no scripts, the curves as inline SVG.

This is the one place where `lab` writes markup: the report is a file to hand on, not a screen of the app.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, StoreError
from lab.files import write_bytes
from lab.store.curves import series
from lab.store.queries import checkpoints, events, latest, metric_info, predictions, run_row, samples
from lab.store.source import Source, cursor_of
from lab.store.svg import Line, chart, number

if TYPE_CHECKING:
    import pandas

TRAIN, VALIDATION, PLAIN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's colours, told apart by colour-blind eyes
_POINTS, _SAMPLES = 500, 20
_FACTS = ("run_id", "status", "kind", "created_at", "started_at", "ended_at", "parent_run_id", "parent_step", "seed",
          "device", "host", "n_params", "n_trainable", "total_steps", "tags", "error")  # fmt: skip

_PREDICTION = ("metric", "predicted", "low", "high", "actual", "who")
_CHECKPOINT = ("step", "kind", "val_loss", "bytes", "sha256")
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .2rem .8rem .2rem 0;
border-bottom: 1px solid var(--line); vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; border-left: 3px solid var(--line); padding-left: 1rem; margin: .3rem 0 1.2rem }
figure { margin: 1rem 0 } svg { width: 100%; font: 11px system-ui, sans-serif; fill: currentColor }
.grid { stroke: var(--line) } .legend span { margin-right: 1.5rem } .legend i { display: inline-block; width: 1rem;
height: .2rem; margin-right: .4rem; vertical-align: middle } .columns { columns: 18rem }
"""


def write_report(source: Source, run_id: str, out: Path) -> Path:
    """Write the report of a run to an HTML file.

    Raises:
        RunError: no such run.
        StoreError: the file cannot be written.
    """
    page = report(source, run_id).encode()
    try:
        write_bytes(out, page)
    except LabError as error:
        raise StoreError(str(error)) from error
    return out


def report(source: Source, run_id: str) -> str:
    """The page's HTML."""
    with cursor_of(source) as cursor:
        run = run_row(cursor, run_id)
        info = metric_info(cursor)
        newest = latest(cursor, run_id)
        sections = [
            ("", _facts({name: run[name] for name in _FACTS if run[name] not in (None, "", [])})),
            ("Notebook", f"<pre>{escape(run['notebook'])}</pre>" if run["notebook"] else ""),
            ("Curves", _curves(cursor, run_id, list(newest), info)),
            ("Final figures", _figures(newest, info)),
            ("What it wrote", _samples(_rows(samples, cursor, run_id)[-_SAMPLES:])),
            ("Predictions", _table(_rows(predictions, cursor, run_id), _PREDICTION)),
            ("Settings", _settings(run["config"] or {})),
            ("Checkpoints", _table(_rows(checkpoints, cursor, run_id), _CHECKPOINT)),
            ("Events", _table(_rows(events, cursor, run_id), ("time", "step", "kind", "message"))),
            ("Versions", _facts(run["versions"] or {})),
        ]
    title = escape(run["name"] or run_id)
    body = "".join((f"<h2>{name}</h2>" if name else "") + content for name, content in sections if content)
    note = f"<p>{escape(run['note'])}</p>" if run["note"] else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{note}{body}</body></html>\n"
    )


def _rows(question: Callable[[Source, str], "pandas.DataFrame"], source: Source, run_id: str) -> list[dict[str, Any]]:
    """An answer as dicts; a whole number stays one beside a missing value."""
    frame = question(source, run_id)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _curves(source: Source, run_id: str, names: list[str], info: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    losses = [name for name in ("train/loss", "val/loss") if name in names]
    groups = ([losses] if losses else []) + [[name] for name in sorted(names) if name not in losses]
    for group in groups:
        lines = [_line(source, run_id, name, label=name if len(group) > 1 else "") for name in group]
        about = info.get(group[0], {})
        title = " and ".join(group)
        unit = about.get("unit") or group[0]
        drawn = chart(lines, x_title="step", y_title=unit)
        if drawn:
            parts.append(f"<h3>{escape(title)}</h3><p>{escape(about.get('description') or '')}</p>{drawn}")
    return "".join(parts)


def _line(source: Source, run_id: str, name: str, label: str) -> Line:
    frame = series(source, run_id, name, max_points=_POINTS)
    colour = {"train/loss": TRAIN, "val/loss": VALIDATION}.get(name, PLAIN)
    columns = {column: frame[column].astype(float).tolist() for column in ("x", "mean", "low", "high")}
    band = frame.attrs["bucket"] > 1
    return Line(
        label, colour, columns["x"], columns["mean"], columns["low"] if band else (), columns["high"] if band else ()
    )


def _figures(newest: Mapping[str, Any], info: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        {"metric": name, "value": value.value, "unit": info.get(name, {}).get("unit", ""), "step": value.step}
        for name, value in sorted(newest.items())
    ]
    return _table(rows, ("metric", "value", "unit", "step"))


def _samples(rows: list[dict[str, Any]]) -> str:
    return "".join(
        f"<h3>Step {row['step']:,}</h3><pre><b>{escape(row['prompt'] or '')}</b>{escape(row['text'] or '')}</pre>"
        for row in rows
    )


def _settings(config: Mapping[str, Any]) -> str:
    sections = [(name, value) for name, value in config.items() if isinstance(value, Mapping)]
    return "".join(f"<h3>{escape(name)}</h3>{_facts(values)}" for name, values in sections)


def _facts(pairs: Mapping[str, Any]) -> str:
    return _table([{"name": name, "value": value} for name, value in pairs.items()], ("name", "value"), heading=False)


def _table(rows: list[dict[str, Any]], columns: Iterable[str], *, heading: bool = True) -> str:
    if not rows:
        return ""
    columns = list(columns)
    head = "<tr>" + "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr>" if heading else ""
    lines = ("<tr>" + "".join(_cell(row.get(column)) for column in columns) + "</tr>" for row in rows)
    return f"<table>{head}{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float) and math.isnan(value):
        return '<td class="n">–</td>'
    if isinstance(value, int | float):
        return f'<td class="n">{number(value)}</td>'
    if isinstance(value, datetime):
        return f"<td>{value:%Y-%m-%d %H:%M:%S}</td>" if value == value else "<td>–</td>"  # NaT differs from itself
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return f"<td>{escape('–' if value is None else str(value))}</td>"
