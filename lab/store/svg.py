"""A line chart as inline SVG: axes with round numbers, one line per series, nothing to load."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 40


@dataclass(frozen=True)
class Line:
    """One curve. `low` and `high` draw a band behind it: the range that each point stands for."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def chart(lines: Sequence[Line], *, x_title: str, y_title: str) -> str:
    """The chart's markup; empty when there is nothing to draw."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return ""
    xs = [value for line in lines for value in line.x]
    ys = [value for line in lines for value in (*line.y, *line.low, *line.high)]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x0, x1 = min(xs[0], min(xs)), max(max(xs), min(xs) + 1e-12)
    y0, y1 = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def px(value: float) -> float:
        return _LEFT + (value - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_title)} over {escape(x_title)}">',
        *(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(t):.1f}" y2="{py(t):.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{py(t) + 4:.1f}" text-anchor="end">{number(t)}</text>'
            for t in y_ticks
        ),
        *(
            f'<text x="{px(t):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number(t)}</text>'
            for t in x_ticks
            if x0 <= t <= x1
        ),
        f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>',
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>',
    ]
    for line in lines:
        if len(line.low):
            upper = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.high, strict=True)]
            lower = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.low, strict=True)]
            band = " ".join(upper + lower[::-1])
            parts.append(f'<polygon points="{band}" fill="{line.colour}" opacity="0.2"/>')
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        if len(line.x) == 1:
            parts.append(f'<circle cx="{px(line.x[0]):.1f}" cy="{py(line.y[0]):.1f}" r="3" fill="{line.colour}"/>')
        else:
            parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>')
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{escape(line.label)}</span>' for line in lines if line.label
    )
    return f'<figure>{"".join(parts)}</svg><figcaption class="legend">{legend}</figcaption></figure>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from just below `low` to just above `high`, some five of them."""
    if not high > low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """As a person writes it: 1,500 or 0.003 or 2e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1_000:
        return f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.3g}"
    return f"{value:.4g}"
