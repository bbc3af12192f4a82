"""The figure of `benchmarks/induction.py`, as an SVG written by hand: two charts side by side, one line per run."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lab.files import write_bytes

WIDTH, HEIGHT = 900, 340
PANEL_WIDTH, PANEL_HEIGHT = 360, 230
TOP, LEFTS = 56, (64, 516)

# From the palette of Okabe & Ito, two that stand for nothing else in the lab; told apart by dashes too.
TWO_LAYERS, ONE_LAYER, UNREPEATED = "#0a7fb8", "#c77700", "#6b6b6b"

Run = dict[str, Any]
Line = tuple[str, str, list[tuple[float, float]]]
"""Colour, dash pattern, and points in the chart's own units."""


def draw(two_layers: Sequence[Run], one_layer: Sequence[Run], path: Path) -> None:
    """Write the figure: loss of the second half on the left, the best head's induction score on the right."""
    steps = two_layers[0]["curve"][-1]["step"]

    def lines(name: str, runs: Sequence[Run], colour: str, dash: str = "") -> list[Line]:
        return [(colour, dash, [(point["step"], point[name]) for point in run["curve"]]) for run in runs]

    losses = lines("second_half_loss", one_layer, ONE_LAYER, "6 3") + lines("second_half_loss", two_layers, TWO_LAYERS)
    scores = lines("induction_unrepeated", two_layers, UNREPEATED, "2 3") + lines(
        "induction", one_layer, ONE_LAYER, "6 3"
    )
    scores += lines("induction", two_layers, TWO_LAYERS)
    body = [
        *_panel(LEFTS[0], "Loss on the second half (nats per token)", losses, steps, [0, 1, 2, 3, 4, 5, 6]),
        *_panel(LEFTS[1], "Induction score of the best head", scores, steps, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        *_legend(),
    ]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="#222"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )
    write_bytes(path, svg.encode())


def _panel(left: float, title: str, lines: list[Line], steps: int, ticks: list[float]) -> list[str]:
    bottom, right = TOP + PANEL_HEIGHT, left + PANEL_WIDTH

    def x(step: float) -> float:
        return left + PANEL_WIDTH * step / steps

    def y(value: float) -> float:
        return bottom - PANEL_HEIGHT * min(value, ticks[-1]) / ticks[-1]

    parts = [_text(left, TOP - 12, title, bold=True)]
    for tick in ticks:
        parts.append(f'<path d="M{left} {y(tick):.1f}H{right}" stroke="#e3e3e3"/>')
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    for quarter in range(5):
        step = steps * quarter // 4
        parts.append(_text(x(step), bottom + 18, f"{step:,}", anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 36, "training step", anchor="middle"))
    return parts + [_line(line, x, y) for line in lines]


def _line(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    colour, dash, points = line
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}/>'


def _legend() -> list[str]:
    entries = (
        (LEFTS[0], TWO_LAYERS, "", "two layers"),
        (LEFTS[0] + 110, ONE_LAYER, "6 3", "one layer"),
        (LEFTS[0] + 215, UNREPEATED, "2 3", "two layers, the same distances on tokens that do not repeat"),
    )
    parts = []
    for left, colour, dash, label in entries:
        parts.append(_line((colour, dash, [(left, 18), (left + 26, 18)]), lambda x: x, lambda y: y))
        parts.append(_text(left + 32, 22, label))
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
