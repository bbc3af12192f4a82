"""Curves of other programs: TensorBoard event files and CSV, as runs of kind "imported"."""

import csv
import hashlib
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.errors import StoreError
from lab.store.importing import Imported, NewRun, put_in_place, rows_table
from lab.store.tensorboard import Scalar, read_events

EVENT_FILES = "*tfevents*"
_ELAPSED = ("elapsed_s", "wall_time", "seconds")


def import_tensorboard(path: Path, *, run_id: str | None = None, name: str = "") -> list[Imported]:
    """A run for each folder that holds event files, as TensorBoard itself counts runs.

    Args:
        path: an event file, or a folder with event files in it or below it.
        run_id: the id it gets, where there is only one run.

    Raises:
        StoreError: there is none, or one is not an event file.
        RunError: it is here already.
    """
    files = [path] if path.is_file() else sorted(path.rglob(EVENT_FILES))
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    if not folders:
        raise StoreError(f"{path} holds no TensorBoard event files (their names contain “tfevents”).")
    if len(folders) > 1 and (run_id or name):
        raise StoreError(f"{path} holds {len(folders)} runs: they cannot all get the same id or name.")
    # Everything is read before the first run is made: a bad file means no run at all.
    read = {folder: [read_events(file) for file in group] for folder, group in folders.items()}
    imported = []
    for folder, group in folders.items():
        scalars = [scalar for file in read[folder] for scalar in file.scalars]
        if not scalars:
            raise StoreError(f"The event files of {folder} hold no curves.")
        skipped = sum(file.skipped for file in read[folder])
        notices = [file.problem for file in read[folder] if file.problem]
        if skipped:
            notices.append(f"{skipped:,} values that are no curves (pictures, texts, histograms) were left out")
        title = name or (folder.name if folder != path or path.is_dir() else path.stem)
        imported.append(_make(group, title, _scalar_rows(scalars), scalars[0].wall_time, run_id, notices))
    return imported


def import_csv(path: Path, *, run_id: str | None = None, name: str = "") -> Imported:
    """A run of a table: either the columns step, name, value (and, if there, tokens_seen, elapsed_s), or a column
    step and one column for each metric.

    Raises:
        StoreError: it is not such a table; the line is named.
        RunError: it is here already.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        began = path.stat().st_mtime
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read as a table ({error}).") from error
    reader = csv.DictReader(text.splitlines())
    columns = [column.strip() for column in reader.fieldnames or ()]
    if "step" not in columns or len(columns) < 2:
        raise StoreError(f"{path} has the columns {', '.join(columns) or 'none'}: one of them must be “step”.")
    reader.fieldnames = columns
    is_long = {"name", "value"} <= set(columns)
    rows = [row for line in reader for row in _csv_rows(line, columns, is_long, f"{path}, line {reader.line_num}")]
    if not rows:
        raise StoreError(f"{path} holds no values.")
    return _make([path], name or path.stem, rows, began, run_id, [])


def _csv_rows(line: dict[str, Any], columns: Sequence[str], is_long: bool, where: str) -> Iterable[dict[str, Any]]:
    shared: dict[str, Any] = {"step": _whole(line["step"], where)}
    if line.get("tokens_seen"):
        shared["tokens_seen"] = _whole(line["tokens_seen"], where)
    for column in _ELAPSED:
        if line.get(column):
            shared.setdefault("elapsed_s", _number(line[column], where))
    if is_long:
        yield {**shared, "name": line["name"], "value": _number(line["value"], where)}
        return
    for column in columns:
        if column not in ("step", "tokens_seen", *_ELAPSED) and line[column] not in (None, ""):
            yield {**shared, "name": column, "value": _number(line[column], where)}


def _number(text: str | None, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise StoreError(f"{where}: {text!r} is not a number.") from None


def _whole(text: str | None, where: str) -> int:
    number = _number(text, where)
    if not math.isfinite(number) or number != int(number):
        raise StoreError(f"{where}: {text!r} is not a whole number.")
    return int(number)


def _scalar_rows(scalars: Sequence[Scalar]) -> list[dict[str, Any]]:
    began = min(scalar.wall_time for scalar in scalars)
    return [
        {"step": one.step, "elapsed_s": one.wall_time - began, "name": one.name, "value": one.value} for one in scalars
    ]


def _make(
    files: Sequence[Path], name: str, rows: list[dict[str, Any]], began: float, run_id: str | None, notices: list[str]
) -> Imported:
    # The id comes from the content, so the same file is not imported twice.
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    when = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
    with NewRun(run_id or f"imported-{digest[:10]}") as new:
        info = {"run_id": new.run_id, "name": name, "kind": "imported", "status": "finished", "created_at": when}
        new.write_info({**info, "note": f"Imported from {', '.join(file.name for file in files[:3])}"})
        new.write_rows("metrics", rows_table("metrics", rows))
        return put_in_place(new, ". ".join(notices) + "." if notices else "")
