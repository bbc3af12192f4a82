"""Putting the record right after whatever happened while nobody owned it.

Who is alive is told by the lock on each run's `run.lock`, which the kernel gives back at any kind of death, and
not by guessing from heartbeats. Only a run of another machine (a shared folder) is judged by its files' age.
"""

import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from lab import paths
from lab.errors import LabError, RunError
from lab.rundir import RunDir, all_runs
from lab.store.adopt import adopt
from lab.store.database import Database, put_event, put_run
from lab.store.segment_files import list_segments
from lab.store.segments import ingest
from lab.store.tables import LIVE

ENDED = ("finished", "stopped", "failed", "interrupted")
_SILENCE_S = 180.0  # a live run of another host writes a segment each second, an evaluation or pause aside
_CLOCK_TICK_NS = 1_000_000_000  # coarser than the time stamps of any file system in use
_SEEN: weakref.WeakKeyDictionary[Database, dict[str, int]] = weakref.WeakKeyDictionary()


def sweep(database: Database) -> list[str]:
    """Take in all segments, read run folders the database does not know, and make statuses true.

    Returns:
        The ids of the runs that turned out to be dead and are `interrupted` now.
    """
    with database.cursor() as cursor:
        known = dict(cursor.execute("SELECT run_id, status FROM runs").fetchall())
    interrupted = []
    for run_dir in all_runs():
        if known.get(run_dir.run_id) == "finished" and not list_segments(run_dir.segments):
            continue  # nearly all of them, so thousands of runs cost a fraction of a second
        alive = is_alive(run_dir)  # first: all that a dead process wrote is there by now
        adopt(database, run_dir)
        ingest(database, run_dir)
        if not alive and _settle(database, run_dir):
            interrupted.append(run_dir.run_id)
    return interrupted


def settle_dead(database: Database) -> None:
    """Make the status of live runs true that died since: for the owner's poll loop."""
    with database.cursor() as cursor:
        live = cursor.execute(f"SELECT run_id FROM runs WHERE status IN {LIVE}").fetchall()
    for (run_id,) in live:
        run_dir = RunDir(paths.outputs() / run_id)
        if run_dir.info_path.is_file() and not is_alive(run_dir):
            ingest(database, run_dir)  # its last words, which may say that it is finished
            _settle(database, run_dir)


def ingest_all(database: Database) -> int:
    """Take in what live runs of other processes have written since the last time. For the owner's poll loop: a
    folder in which nothing has changed costs one `stat`.

    Returns:
        How many rows came in.
    """
    seen = _SEEN.setdefault(database, {})
    now = time.time_ns()
    rows, outputs = 0, paths.outputs()
    for name, changed in _segment_folders():
        if seen.get(name) != changed and (run_dir := RunDir(outputs / name)).info_path.is_file():
            rows += ingest(database, run_dir)
            if now - changed > _CLOCK_TICK_NS:  # else another file may come in with the same time stamp
                seen[name] = changed
    return rows


def _segment_folders() -> Iterator[tuple[str, int]]:
    """Each run folder that has segments/, and when something last changed in there."""
    outputs = str(paths.outputs())
    try:
        names = os.listdir(outputs)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith("."):
            continue  # the cache, and runs in the making
        with suppress(FileNotFoundError, NotADirectoryError):
            yield name, os.stat(f"{outputs}/{name}/segments").st_mtime_ns


def is_alive(run_dir: RunDir) -> bool:
    """Whether a process records this run right now."""
    host = _info(run_dir).get("host")
    if host is None or host == socket.gethostname():
        return run_dir.is_alive()
    newest = max(
        (path.stat().st_mtime for path in (run_dir.info_path, *run_dir.segments.glob("*")) if path.exists()),
        default=0.0,
    )
    return time.time() - newest < _SILENCE_S


def _settle(database: Database, run_dir: RunDir) -> bool:
    """Make the status of a run that no process records true. Returns whether it became `interrupted`."""
    with database.cursor() as cursor:
        row = cursor.execute("SELECT status FROM runs WHERE run_id = ?", [run_dir.run_id]).fetchone()
    info = _info(run_dir)
    recorded, stated = (row[0] if row else None), info.get("status")
    if recorded not in LIVE and stated not in LIVE:
        return False
    if recorded in LIVE and stated in ENDED:  # the folder is the truth: the last segment may have been damaged
        database.update_run(run_dir.run_id, **_ending(info))
        return False
    if info.get("host") not in (None, socket.gethostname()):
        return _interrupt(database, run_dir)  # its lock and its files are the other machine's
    try:
        with run_dir.lock():  # so that nobody resumes it while we say that it is dead
            return _interrupt(database, run_dir)
    except RunError:
        return False  # somebody has just resumed it


def _interrupt(database: Database, run_dir: RunDir) -> bool:
    info = _info(run_dir)
    ended_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with database.writing() as cursor:
        (step,) = cursor.execute("SELECT max(step) FROM metrics WHERE run_id = ?", [run_dir.run_id]).fetchone() or (
            None,
        )
        put_run(cursor, run_dir.run_id, {"status": "interrupted", "ended_at": ended_at})
        put_event(
            cursor,
            run_dir.run_id,
            "interrupted",
            "The process that trained this run ended without saying so; Resume goes on from its last saved state.",
            level="warning",
            step=step,
        )
    if info:
        run_dir.update_info(status="interrupted", ended_at=ended_at)
    return True


def _ending(info: dict[str, Any]) -> dict[str, Any]:
    return {name: info[name] for name in ("status", "ended_at", "error") if name in info}


def _info(run_dir: RunDir) -> dict[str, Any]:
    try:
        return run_dir.info()
    except LabError:
        return {}  # damaged run.json: `adopt` has told
