"""What a run's metrics come to: summed up once when the run ends, at each look while it lives.

A list of 5,000 runs reads 45,000 rows of `run_totals` instead of 20 million of `metrics`. `runs.summed_at` tells
which is which: set, the totals are those of the metrics as they stand; NULL, they have to be made from the rows.
Whoever adds or deletes metric rows calls `refresh` in the same transaction, so the two never disagree.
"""

from datetime import UTC, datetime

from lab.store.cursor import Cursor
from lab.store.tables import LIVE

COLUMNS = """
    run_id, name, count(*) AS rows, count(*) FILTER (NOT isfinite(value)) AS nonfinite,
    min(step) AS first_step, arg_min(value, step) AS first_value,
    max(step) AS last_step, arg_max(value, step) AS last_value,
    min(value) FILTER (isfinite(value)) AS lowest, arg_min(step, value) FILTER (isfinite(value)) AS lowest_step,
    max(value) FILTER (isfinite(value)) AS highest, arg_max(step, value) FILTER (isfinite(value)) AS highest_step,
    max(tokens_seen) AS tokens_seen, max(elapsed_s) AS elapsed_s
"""
"""One run's metric in numbers, in the order of the table's columns. NaN sorts greatest: it is counted, not compared."""


def refresh(cursor: Cursor, run_id: str) -> bool:
    """Make a run's totals true after its rows or its status changed. For use inside `Database.writing()`.

    Returns:
        Whether the run is live, so that its rows are summed up at each look and nothing need be kept.
    """
    row = cursor.execute("SELECT status, summed_at FROM runs WHERE run_id = ?", [run_id]).fetchone()
    if row is None:
        return False
    status, summed_at = row
    if summed_at is not None:
        cursor.execute("DELETE FROM run_totals WHERE run_id = ?", [run_id])
    if status in LIVE:
        if summed_at is not None:
            cursor.execute("UPDATE runs SET summed_at = NULL WHERE run_id = ?", [run_id])
        return True
    cursor.execute(
        f"INSERT INTO run_totals SELECT {COLUMNS} FROM metrics WHERE run_id = ? GROUP BY run_id, name", [run_id]
    )
    cursor.execute("UPDATE runs SET summed_at = ? WHERE run_id = ?", [datetime.now(UTC), run_id])
    return False


def sum_up_ended(cursor: Cursor) -> int:
    """Sum up every run that has ended and was not yet: once, after the table was introduced.

    Returns:
        How many runs.
    """
    ended = f"SELECT run_id FROM runs WHERE summed_at IS NULL AND status NOT IN {LIVE}"
    ((count,),) = cursor.execute(f"SELECT count(*) FROM ({ended})").fetchall()
    if count:
        cursor.execute(f"DELETE FROM run_totals WHERE run_id IN ({ended})")
        cursor.execute(
            f"INSERT INTO run_totals SELECT {COLUMNS} FROM metrics WHERE run_id IN ({ended}) GROUP BY run_id, name"
        )
        cursor.execute(
            f"UPDATE runs SET summed_at = ? WHERE summed_at IS NULL AND status NOT IN {LIVE}", [datetime.now(UTC)]
        )
    return count
