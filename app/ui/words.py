"""Numbers as a person would say them."""

from datetime import UTC, datetime
from math import exp


def count(number: float) -> str:
    """1,240 · 0.80 M · 1.24 B."""
    size = abs(number)
    if size >= 1e9:
        return f"{number / 1e9:.2f} B"
    if size >= 1e5:
        return f"{number / 1e6:.2f} M" if size < 1e7 else f"{number / 1e6:.1f} M"
    return f"{number:,.0f}"


def data(n_bytes: float) -> str:
    """3.1 MiB · 0.41 GiB · 24 GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= 0.4 * size:
            value = n_bytes / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
    return f"{n_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """38 s · 3 min 20 s · 2 h 5 min · 3 days 4 h."""
    seconds = max(0, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"


def loss(nats: float) -> str:
    """A loss with the two digits that one can believe, more when it is very small."""
    return f"{nats:.2f}" if nats >= 0.1 else f"{nats:.3g}"


def perplexity(nats: float) -> str:
    """exp(loss): how many equally likely tokens the model's uncertainty amounts to."""
    value = exp(min(nats, 50))
    return f"{value:.1f}" if value < 20 else f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"


def rate(value: float) -> str:
    """A learning rate: 0.003, 3e-04 → 0.0003, 1.2e-06."""
    return f"{value:.3g}" if value >= 1e-4 else f"{value:.2g}"


def epochs(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def ago(moment: datetime | None, *, now: datetime | None = None) -> str:
    """just now · 12 min ago · yesterday's date when it is long ago."""
    if moment is None:
        return ""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86_400:
        return f"{seconds // 3600:.0f} h ago"
    return f"{moment.astimezone():%d %b %Y, %H:%M}"


def value(anything: object) -> str:
    """A setting's value in a table."""
    if anything is None:
        return "not set"
    if isinstance(anything, bool):
        return "yes" if anything else "no"
    if isinstance(anything, float):
        return f"{anything:g}"
    if isinstance(anything, int):
        return f"{anything:,}"
    if isinstance(anything, (list, tuple)):
        return " · ".join(str(item) for item in anything) or "none"
    return str(anything)
