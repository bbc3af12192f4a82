"""A copy of the whole record before each migration; the last three are kept beside it.

runs.duckdb.backups/schema1-20261120-063000.duckdb
"""

from datetime import datetime
from pathlib import Path

from lab.errors import StoreError
from lab.store.copying import copy_record
from lab.store.cursor import Cursor

KEPT = 3


def backup_folder(database_path: Path) -> Path:
    return database_path.with_name(database_path.name + ".backups")


def list_backups(database_path: Path) -> list[Path]:
    """Backups of this record, oldest first."""
    folder = backup_folder(database_path)
    return sorted(folder.glob("schema*.duckdb"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def back_up(cursor: Cursor, database_path: Path, schema: int) -> Path:
    """Copy the record as it is before its schema changes.

    Args:
        schema: the number of its last migration.

    Raises:
        StoreError: there is no room for the copy; nothing has been changed then.
    """
    folder = backup_folder(database_path)
    target = folder / f"schema{schema}-{datetime.now():%Y%m%d-%H%M%S}.duckdb"
    try:
        folder.mkdir(exist_ok=True)
        copy_record(cursor, target)
        for old in list_backups(database_path)[:-KEPT]:
            old.unlink()
    except (OSError, StoreError) as error:
        raise StoreError(
            f"The record has to be brought up to date, but it could not be copied to {folder} first ({error}): "
            "nothing was changed. Free some disk space and start again."
        ) from error
    return target
