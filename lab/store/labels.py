"""What people say of runs: name, tags, note, notebook, archived, deleted.

Each change goes to two places: `labels.json` in the run's folder, so that `lab` finds a run by its new name and a
record that had to be made anew knows it too; and the row in `runs`. The trainer writes neither, so renaming a live
run cannot collide with it. A process that does not own the record leaves the change as a segment for its owner.
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lab import paths
from lab.errors import DatabaseBusy, RunError
from lab.rundir import RunDir
from lab.store.adopt import adopt
from lab.store.database import Database
from lab.store.recorder import SegmentRecorder
from lab.store.segments import ingest
from lab.store.tables import LIVE

_MOST = 100  # characters of a name or tag


def rename(database: Database, run_id: str, name: str) -> None:
    """Call the run something else.

    Raises:
        RunError: there is no such run, or the name cannot be one.
    """
    label(database, run_id, name=checked_name(name))


def set_tags(database: Database, run_id: str, tags: Sequence[str]) -> None:
    """Give the run these tags and no others."""
    label(database, run_id, tags=checked_tags(tags))


def set_note(database: Database, run_id: str, note: str) -> None:
    """The line beside the run's name."""
    label(database, run_id, note=note.strip() or None)


def set_notebook(database: Database, run_id: str, text: str) -> None:
    """The text about the run, in Markdown. Called on every pause in typing: writes only what changed."""
    with database.cursor() as cursor:
        row = cursor.execute("SELECT notebook FROM runs WHERE run_id = ?", [run_id]).fetchone()
    if row is None or row[0] != (text or None):
        label(database, run_id, notebook=text or None)


def notebook(database: Database, run_id: str) -> str:
    """The text about the run; empty where there is none."""
    with database.cursor() as cursor:
        row = cursor.execute("SELECT notebook FROM runs WHERE run_id = ?", [run_id]).fetchone()
    return (row[0] if row else None) or ""


def archive(database: Database, run_id: str) -> None:
    """Take a run out of the list without deleting anything; SQL and comparisons still know it."""
    label(database, run_id, archived_at=datetime.now(UTC))


def unarchive(database: Database, run_id: str) -> None:
    label(database, run_id, archived_at=None)


def delete(database: Database, run_id: str) -> None:
    """Put a run into the bin: `restore` undoes it, `purge` makes it final.

    Raises:
        RunError: it is live, or waits in the queue.
    """
    _must_not_live(database, run_id)
    label(database, run_id, deleted_at=datetime.now(UTC))


def restore(database: Database, run_id: str) -> None:
    """Take a run out of the bin."""
    label(database, run_id, deleted_at=None)


def purge(database: Database, run_id: str) -> int:
    """Delete a run from the bin for good: its folder with checkpoints, and its rows.

    Returns:
        Bytes that came free in its folder.

    Raises:
        RunError: it is not in the bin, or its folder cannot be removed.
    """
    _must_not_live(database, run_id)
    with database.cursor() as cursor:
        row = cursor.execute("SELECT deleted_at FROM runs WHERE run_id = ?", [run_id]).fetchone()
    if row is None or row[0] is None:
        raise RunError(f"Run {run_id} is not in the bin: delete it first, and purge it then.")
    folder = paths.outputs() / run_id
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        # The folder first: a row without a folder can be purged again, a folder without a row would be read in again.
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunError(f"{folder} cannot be removed ({error.strerror}): the run stays in the bin.") from error
    database.purge_run(run_id)
    return size


def label(database: Database, run_id: str, **changes: Any) -> None:
    """Write changes of these columns to the run's folder, if it has one, and to its row.

    Raises:
        RunError: there is no such run.
    """
    with database.cursor() as cursor:
        if cursor.execute("SELECT 1 FROM runs WHERE run_id = ?", [run_id]).fetchone() is None:
            raise RunError(f"The record knows no run {run_id!r}; `lab runs list` shows the runs there are.")
    run = RunDir(paths.outputs() / run_id)
    if run.info_path.exists():
        run.label(**_plain(changes))
    database.update_run(run_id, **changes)


def label_from_anywhere(run: RunDir, **changes: Any) -> bool:
    """The same from a process that may not own the record.

    Returns:
        Whether the record has it already; False: its owner will take it in within a second.
    """
    run.label(**_plain(changes))
    recorder = SegmentRecorder(run)
    recorder.rows("runs", [changes])
    recorder.close()
    try:
        with Database.open(patience_s=0.0) as database:
            adopt(database, run)
            ingest(database, run)
    except DatabaseBusy:
        return False
    return True


def checked_name(name: str) -> str:
    """The name without spaces around it.

    Raises:
        RunError: it is empty, too long, or could be taken for a path.
    """
    name = " ".join(name.split())
    if not name or len(name) > _MOST or "/" in name or "\\" in name or name.startswith("."):
        raise RunError(f"{name!r} cannot be a run's name: 1 to {_MOST} characters, no slash, no dot in front.")
    return name


def checked_tags(tags: Sequence[str]) -> list[str]:
    """The tags in order, each once.

    Raises:
        RunError: one of them is too long or holds a comma.
    """
    cleaned = list(dict.fromkeys(" ".join(tag.split()) for tag in tags if tag.strip()))
    for tag in cleaned:
        if len(tag) > _MOST or "," in tag:
            raise RunError(f"{tag!r} cannot be a tag: at most {_MOST} characters, no comma.")
    return cleaned


def _must_not_live(database: Database, run_id: str) -> None:
    with database.cursor() as cursor:
        row = cursor.execute("SELECT status FROM runs WHERE run_id = ?", [run_id]).fetchone()
    if row is None:
        raise RunError(f"The record knows no run {run_id!r}; `lab runs list` shows the runs there are.")
    (status,) = row
    if status in ("queued", *LIVE) or RunDir(paths.outputs() / run_id).is_alive():
        raise RunError(f"Run {run_id} is {status}: stop it before it is deleted.")


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in changes.items()}
