"""Taking a run elsewhere: one file with everything of it, and back to the same rows."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lab
from lab import paths
from lab.errors import StoreError
from lab.models.checkpoints import checkpoints_in
from lab.rundir import RunDir
from lab.store.archive_file import Archive, ArchiveWriter, Member, write_archive
from lab.store.cursor import Cursor
from lab.store.importing import Imported, NewRun, put_in_place
from lab.store.queries import run_row
from lab.store.source import Source, cursor_of
from lab.store.tables import LIVE, RUN_TABLES, columns

LEFT_OUT = ("run_id", "config", "pid", "queue_pos", "summed_at", "deleted_at", "archived_at")
"""Columns of `runs` that stand elsewhere in the archive, or mean something on this machine alone."""


def export_run(source: Source, run_id: str, out: Path, *, checkpoints: bool = False) -> dict[str, Member]:
    """Write a run to one file.

    Args:
        checkpoints: with its weights; they are most of the size.

    Returns:
        The file's members, with hash, bytes and rows.

    Raises:
        RunError: no such run.
        StoreError: the file cannot be written.
    """
    run = RunDir(paths.outputs() / run_id)
    with cursor_of(source) as cursor:
        row = run_row(cursor, run_id)

        def fill(archive: ArchiveWriter) -> None:
            about = {name: _plain(value) for name, value in row.items() if name not in LEFT_OUT}
            archive.add("run.json", _json({"run_id": run_id, **about}))
            if row["config"] is not None:
                archive.add("config.json", _json(row["config"]))
            if run.tokenizer_path.exists():
                archive.add_file("tokenizer.json", run.tokenizer_path)
            for table in RUN_TABLES:
                content, rows = _rows(cursor, table, run_id)
                archive.add(f"rows/{table}.parquet", content, rows)
            for info in checkpoints_in(run.checkpoints) if checkpoints else []:
                for path in (info.path, info.path.with_suffix(".json")):
                    archive.add_file(f"checkpoints/{path.name}", path)

        return write_archive(out, run_id, fill, exported_at=datetime.now(UTC).isoformat(), lab=lab.__version__)


def import_archive(path: Path, *, run_id: str | None = None) -> Imported:
    """Make a run of an archive: its folder, with the rows as segments for whoever owns the record.

    Args:
        run_id: another id than the one it had.

    Raises:
        StoreError: the file is damaged; nothing is taken from it then.
        RunError: the run is here already.
    """
    import pyarrow.parquet

    with Archive(path) as archive:
        archive.check()
        target = run_id or archive.run_id
        try:
            info = {**json.loads(archive.read("run.json")), "run_id": target}
        except (ValueError, KeyError) as error:
            raise StoreError(f"{path} is damaged: run.json cannot be read.") from error
        if info.get("status") in (*LIVE, "queued"):
            info["status"] = "interrupted"  # it went on where it came from, but not here
        with NewRun(target) as new:
            new.write_info(info)
            for name in archive.members:
                if name.startswith("rows/"):
                    table = Path(name).stem
                    if table not in RUN_TABLES:
                        raise StoreError(f"{path} holds rows of {table}, which this lab does not know: update the lab.")
                    new.write_rows(table, pyarrow.parquet.read_table(io.BytesIO(archive.read(name))))
                elif name != "run.json":
                    with archive.open(name) as content:
                        new.copy(name, content)
            return put_in_place(new)


def _rows(cursor: Cursor, table: str, run_id: str) -> tuple[bytes, int]:
    """A run's rows of one table as Parquet, in the order they came in."""
    import pyarrow.parquet

    listed = ", ".join(f'"{name}"' for name in columns(table))
    rows = cursor.execute(f"SELECT {listed} FROM {table} WHERE run_id = ? ORDER BY rowid", [run_id]).arrow()
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue(), rows.num_rows


def _json(value: Any) -> bytes:
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n").encode()
    except ValueError as error:
        raise StoreError(f"The run's row cannot be written as JSON: {error}.") from error


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
