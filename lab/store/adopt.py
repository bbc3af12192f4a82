"""A run directory describes itself: this reads one that the database does not know yet."""

from typing import Any

from lab.errors import LabError
from lab.files import read_json
from lab.rundir import RunDir
from lab.store.database import Database, put_event, put_run
from lab.store.tables import SCHEMA


def adopt(database: Database, run_dir: RunDir) -> bool:
    """Give the run a row in `runs`, made from its run.json and config.json, if it has none.

    Returns:
        Whether the row is new.
    """
    with database.cursor() as cursor:
        if cursor.execute("SELECT 1 FROM runs WHERE run_id = ?", [run_dir.run_id]).fetchone() is not None:
            return False
    row, problem = _row(run_dir)
    with database.writing() as cursor:
        put_run(cursor, run_dir.run_id, row)
        if problem:
            put_event(cursor, run_dir.run_id, "warning", problem, level="warning")
    return True


def _row(run_dir: RunDir) -> tuple[dict[str, Any], str]:
    """The columns of the run, and a sentence if its files could not all be read."""
    try:
        info = run_dir.info()
    except LabError as error:
        return {"name": run_dir.run_id, "status": "failed", "error": str(error)}, str(error)
    row = {name: value for name, value in info.items() if name in SCHEMA["runs"]}
    row.setdefault("name", run_dir.run_id)
    if row.get("kind") == "imported" and not run_dir.config_path.exists():
        return row, ""  # from another program: nobody knows its settings
    try:
        row["config"] = read_json(run_dir.config_path)
    except LabError as error:
        return row, str(error)
    row.setdefault("kind", row["config"].get("kind"))
    seed = row["config"].get("train", {}).get("seed")
    return {"seed": seed, **row}, ""
