"""Putting a damaged record right, without throwing anything away: what is replaced is kept under another name.

`examine` only looks; `repair` also mends. Both say each finding in one sentence.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from lab import paths
from lab.errors import DatabaseBusy, StoreError
from lab.rundir import all_runs
from lab.store import totals
from lab.store.backups import list_backups
from lab.store.clock import clock_jump
from lab.store.database import Database, put_event, put_run
from lab.store.sweep import sweep
from lab.store.tables import RUN_TABLES, SCHEMA

_ABANDONED_S = 3_600.0


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    sentence: str
    is_mended: bool


def repair(path: Path | None = None) -> list[Finding]:
    """Mend what can be mended.

    Raises:
        DatabaseBusy: the app has the record open; close it first.
        StoreError: even a new record cannot be written there.
    """
    path = (path or paths.database_path()).resolve()
    found = list(_make_openable(path))
    with Database.open(path, patience_s=0.0) as database:
        dead = sweep(database)
        if dead:
            found.append(Finding(f"Marked as interrupted, because no process trains them: {', '.join(dead)}.", True))
        looked = examine(database, mend=True)
        told = {one.sentence for one in looked}
        found += [Finding(notice, True) for notice in database.notices if notice not in told] + looked
        database.checkpoint()
    found += _tidy(mend=True)
    return found


def examine(database: Database, *, mend: bool = False) -> list[Finding]:
    """Look whether the tables agree with each other and with the folders."""
    looks = (_rows_without_run, _totals, _lost_checkpoints, _put_aside, _clock)
    return [finding for look in looks for finding in look(database, mend)]


# A file that does not open ---------------------------------------------------------------------------------------


def _make_openable(path: Path) -> Iterator[Finding]:
    """Replace a file that cannot be opened by what can be read of it, else by the newest backup, else by a new one."""
    if not path.exists():
        return
    try:
        Database.open(path, patience_s=0.0).close()
        return
    except DatabaseBusy:
        raise
    except StoreError as error:
        if "newer lab" in str(error) or "cannot be written" in str(error) or "disk is full" in str(error):
            raise  # nothing is damaged
        reason = str(error)
    aside = path.with_name(f"{path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}")
    path.rename(aside)
    log = path.with_name(path.name + ".wal")
    if log.exists():
        log.rename(aside.with_name(aside.name + ".wal"))
    for backup in reversed(list_backups(path)):
        if _opens(backup):
            shutil.copyfile(backup, path)
            when = datetime.fromtimestamp(backup.stat().st_mtime, UTC)
            source = f"the backup of {when:%Y-%m-%d %H:%M} UTC took its place"
            break
    else:
        source = "a new one took its place"
    with Database.open(path, patience_s=0.0) as database:
        saved = _salvage(aside, database)
    said = f", and {saved:,} rows were read from the damaged file" if saved else ""
    yield Finding(f"{reason} It is kept as {aside.name}; {source}{said}.", True)


def _opens(path: Path) -> bool:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            connection.execute("SELECT count(*) FROM runs").fetchall()
    except duckdb.Error:
        return False
    return True


def _salvage(damaged: Path, database: Database) -> int:
    """Copy the runs of a file that opens, but is damaged inside, table by table; a table that cannot be read is
    left out. Runs that the new record has already stay as they are."""
    rows = 0
    try:
        source = duckdb.connect(str(damaged), read_only=True)
    except duckdb.Error:
        return 0
    with source:
        known = _ids(database)
        for table in ("runs", *RUN_TABLES):
            try:
                there = [name for (name, *_) in source.execute(f"DESCRIBE {table}").fetchall()]
                shared = [name for name in SCHEMA[table] if name in there]
                listed = ", ".join(f'"{name}"' for name in shared)
                answer = source.execute(
                    f"SELECT {listed} FROM {table} WHERE run_id IS NULL OR NOT list_contains(?, run_id)", [known]
                ).fetchall()
            except duckdb.Error:
                continue
            with database.writing() as cursor:
                if answer:
                    cursor.append(table, shared, answer)
            rows += len(answer)
    with database.writing() as cursor:
        cursor.execute("UPDATE runs SET summed_at = NULL")
        cursor.execute("DELETE FROM run_totals")
        totals.sum_up_ended(cursor)
    return rows


def _ids(database: Database) -> list[str]:
    with database.cursor() as cursor:
        return [run_id for (run_id,) in cursor.execute("SELECT run_id FROM runs").fetchall()]


# A record that does not agree with itself -------------------------------------------------------------------------


def _rows_without_run(database: Database, mend: bool) -> Iterator[Finding]:
    known = set(_ids(database))
    for table in RUN_TABLES:
        with database.cursor() as cursor:
            sql = f"SELECT run_id, count(*) FROM {table} WHERE run_id IS NOT NULL GROUP BY run_id ORDER BY run_id"
            strays = [(run_id, count) for run_id, count in cursor.execute(sql).fetchall() if run_id not in known]
        for run_id, count in strays:
            said = f"Table {table} holds {count:,} rows of run {run_id}, which is not in the list of runs"
            if mend:
                with database.writing() as cursor:
                    row = {"name": run_id, "created_at": datetime.now(UTC), "note": "found again by lab doctor"}
                    put_run(cursor, run_id, row)
                    put_run(cursor, run_id, {"status": "interrupted"})
                known.add(run_id)
                said += ": it is listed now as interrupted"
            yield Finding(said + ".", mend)


def _totals(database: Database, mend: bool) -> Iterator[Finding]:
    # Of equal values either step may be kept as that of the lowest or highest.
    names = ", ".join(name for name in SCHEMA["run_totals"] if name not in ("lowest_step", "highest_step"))
    kept = f"SELECT {names} FROM run_totals"
    made = (
        f"SELECT {names} FROM (SELECT {totals.COLUMNS} FROM metrics "
        "WHERE run_id IN (SELECT run_id FROM runs WHERE summed_at IS NOT NULL) GROUP BY run_id, name)"
    )
    with database.cursor() as cursor:
        sql = f"SELECT DISTINCT run_id FROM (({kept} EXCEPT {made}) UNION ALL ({made} EXCEPT {kept})) ORDER BY run_id"
        wrong = [run_id for (run_id,) in cursor.execute(sql).fetchall()]
    if wrong and mend:
        with database.writing() as cursor:
            for run_id in wrong:
                cursor.execute("DELETE FROM run_totals WHERE run_id = ?", [run_id])
                cursor.execute("UPDATE runs SET summed_at = NULL WHERE run_id = ?", [run_id])
                totals.refresh(cursor, run_id)
    if wrong:
        said = "were made anew" if mend else "do not agree with the rows"
        yield Finding(f"The kept totals of {len(wrong):,} runs {said} ({', '.join(wrong[:5])}).", mend)


def _lost_checkpoints(database: Database, mend: bool) -> Iterator[Finding]:
    """Checkpoints in the record whose files are gone. The rolling resume state goes by itself."""
    sql = """
        SELECT run_id, step, path FROM checkpoints WHERE kind <> 'resume'
        QUALIFY row_number() OVER (PARTITION BY run_id, step ORDER BY rowid DESC) = 1 AND kind <> 'deleted'
        ORDER BY run_id, step
    """
    with database.cursor() as cursor:
        rows = cursor.execute(sql).fetchall()
    for run_id, step, path in rows:
        folder = paths.outputs() / run_id
        if not folder.is_dir() or (folder / path).exists():
            continue
        said = f"The file of checkpoint {step:,} of run {run_id} is gone"
        if mend:
            with database.writing() as cursor:
                cursor.execute("DELETE FROM checkpoints WHERE run_id = ? AND step = ?", [run_id, step])
                put_event(
                    cursor, run_id, "warning", f"{said}; lab doctor took it off the list.", level="warning", step=step
                )
        yield Finding(said + (": it was taken off the list." if mend else "."), mend)


def _put_aside(database: Database, mend: bool) -> Iterator[Finding]:
    for run in all_runs():
        damaged = [path.name for path in run.segments.glob("*.damaged")]
        if damaged:
            yield Finding(
                f"{len(damaged)} segments of run {run.run_id} were damaged and are kept as {damaged[0]} …: "
                "their rows are missing; delete the files when you do not want to look into them.",
                False,
            )


def _clock(database: Database, mend: bool) -> Iterator[Finding]:
    """A clock that was put back: nothing depends on it, but times will look out of order."""
    with database.cursor() as cursor:
        sentence = clock_jump(cursor)
    if sentence:
        yield Finding(sentence, False)


# Leftovers ----------------------------------------------------------------------------------------------------------


def _tidy(mend: bool) -> list[Finding]:
    """Files that a killed process had not finished. They are in nobody's way, only in the disk's."""
    leftovers = [path for path in _unfinished() if time.time() - path.stat().st_mtime > _ABANDONED_S]
    if mend:
        for path in leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    said = "were removed" if mend else "can be removed"
    return (
        [Finding(f"{len(leftovers)} files that a killed process left half-written {said}.", mend)] if leftovers else []
    )


def _unfinished() -> Iterator[Path]:
    outputs = paths.outputs()
    yield from outputs.glob(".import-*")
    for run in all_runs():
        if not run.is_alive():
            for folder in (run.path, run.segments, run.checkpoints, run.resume):
                yield from folder.glob(".*.tmp")
