"""Taking in segments: each exactly once, whatever crashes in between.

The rows and the note "this segment is in" are one transaction; the file is deleted afterwards. A crash between
the two leaves a file that the note already names: the next round deletes it without taking it again.
"""

import json
from datetime import UTC, datetime

import duckdb

from lab.errors import StoreError
from lab.files import sha256_of
from lab.rundir import RunDir
from lab.store import totals
from lab.store.adopt import adopt
from lab.store.cursor import Cursor
from lab.store.database import Database, put_event, put_run
from lab.store.recorder import delete_beyond
from lab.store.segment_files import Segment, is_row_table, list_segments
from lab.store.tables import columns

_AT_ONCE = 64  # segments in one transaction: long enough to be cheap, short enough not to hold up the training thread


def ingest(database: Database, run_dir: RunDir) -> int:
    """Take in the segments of one run, in order.

    Returns:
        How many rows came in.

    Raises:
        StoreError: the record cannot be written; the segments stay and nothing is half taken.
    """
    rows = 0
    with database.lock:  # two threads must not take the same segment
        pending = list_segments(run_dir.segments)
        if pending:
            adopt(database, run_dir)
        while pending:
            batch, pending = pending[:_AT_ONCE], pending[_AT_ONCE:]
            rows += _ingest_batch(database, run_dir, batch)
    return rows


def _ingest_batch(database: Database, run_dir: RunDir, batch: list[Segment]) -> int:
    """One transaction for all of them; should one turn out damaged, the others are tried again without it."""
    good = []
    for segment in batch:
        found = sha256_of(segment.path)
        if found.startswith(segment.hash):
            good.append((segment, found))
        else:
            _put_aside(database, run_dir, segment, "its content does not match the hash in its name")
    while good:
        rows = 0
        segment = good[0][0]
        try:
            with database.writing() as cursor:
                for segment, sha256 in good:
                    rows += _take(cursor, run_dir, segment, sha256)
                if any(segment.table in ("metrics", "rollback") for segment, _ in good):
                    totals.refresh(cursor, run_dir.run_id)
        except (duckdb.DataError, duckdb.ProgrammingError, duckdb.NotSupportedError, ValueError) as error:
            reason = str(error).splitlines()[0]
            _put_aside(database, run_dir, segment, f"it cannot be read ({reason})")
            good = [(other, sha256) for other, sha256 in good if other is not segment]
            continue
        for taken, _ in good:
            taken.path.unlink(missing_ok=True)
        return rows
    return 0


def _take(cursor: Cursor, run_dir: RunDir, segment: Segment, sha256: str) -> int:
    """Put the rows of one segment in, unless they are in already."""
    name = f"{run_dir.run_id}/{segment.path.name}"
    known = cursor.execute("SELECT 1 FROM segments_ingested WHERE segment = ? AND sha256 = ?", [name, sha256])
    if known.fetchone() is not None:
        return 0
    source = [str(segment.path)]
    if is_row_table(segment.table):
        listed = ", ".join(columns(segment.table))
        answer = cursor.execute(f"INSERT INTO {segment.table} ({listed}) SELECT {listed} FROM read_parquet(?)", source)
        (rows,) = answer.fetchall()[0]
    elif segment.table == "runs":
        changes = cursor.execute("SELECT run_id, changes FROM read_parquet(?)", source).fetchall()
        for run_id, change in changes:
            put_run(cursor, run_id, json.loads(change))
        rows = len(changes)
    elif segment.table == "rollback":
        for run_id, after_step in cursor.execute("SELECT run_id, after_step FROM read_parquet(?)", source).fetchall():
            delete_beyond(cursor, run_id, after_step)
        rows = 0
    elif segment.table == "outcomes":
        cursor.execute(
            "UPDATE predictions p SET actual = o.actual FROM read_parquet(?) o "
            "WHERE p.run_id = o.run_id AND p.metric = o.metric", source,
        )  # fmt: skip
        rows = 0
    else:
        raise duckdb.DataError(f"this lab knows no table {segment.table!r}")
    cursor.execute("INSERT INTO segments_ingested VALUES (?, ?, ?, ?)", [name, sha256, rows, datetime.now(UTC)])
    return rows


def _put_aside(database: Database, run_dir: RunDir, segment: Segment, reason: str) -> None:
    """Keep a segment that cannot be taken in under another name, and say so in the run's events."""
    aside = segment.path.with_name(segment.path.name + ".damaged")
    try:
        segment.path.rename(aside)
    except OSError as error:
        raise StoreError(f"{segment.path} is damaged ({reason}) and cannot be renamed ({error.strerror}).") from error
    message = (
        f"A segment of recorded rows could not be taken in: {reason}. It is kept as segments/{aside.name}; "
        "its rows are missing from the curves, everything else is there."
    )
    with database.writing() as cursor:
        put_event(cursor, run_dir.run_id, "warning", message, level="warning")
