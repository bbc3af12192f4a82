"""What a command hands back, and how it is printed."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The result of a command: a document for programs, a text for people, an exit code for scripts."""

    document: Any
    text: str = ""
    code: int = 0


def print_json(document: Any) -> None:
    print(json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """`value` in JSON's own types. A number that is not finite becomes null: JSON has no other word for it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, date)):  # also pandas' Timestamp
        return value.isoformat() if value == value else None  # NaT is the one time that differs from itself
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # a number of numpy's, or a list of them
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> str:
    """Rows as aligned text: words to the left, numbers to the right.

    Args:
        columns: key -> heading, in the order to show; None takes the keys of the first row.
    """
    if not rows:
        return ""
    columns = columns or {key: key for key in rows[0]}
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    numeric = [all(_is_number(row.get(key)) for row in rows) for key in columns]
    widths = [max(len(heading), *(len(row[i]) for row in cells)) for i, heading in enumerate(columns.values())]
    lines = [list(columns.values()), ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def facts(pairs: Mapping[str, Any]) -> str:
    """Names and values below each other."""
    width = max(map(len, pairs), default=0)
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}".rstrip() for name, value in pairs.items())


def progress_line(text: str) -> None:
    """A line for whoever watches; never on standard output."""
    print(text, file=sys.stderr, flush=True)


def human_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def human_seconds(seconds: float) -> str:
    """38 s, 4 min, 2 h 5 min: as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value).replace("\n", "⏎")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(plain(value), (int, float)) and not isinstance(value, bool))
