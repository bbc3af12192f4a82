"""Schema changes: each once, behind a backup, ending at the tables that the code knows."""

from pathlib import Path

import duckdb
import pytest

from lab.errors import StoreError
from lab.store import Database, list_runs, migrations
from lab.store.backups import list_backups
from lab.store.cursor import Cursor
from lab.store.migrations import MIGRATIONS, migrate
from lab.store.tables import SCHEMA, column_type


@pytest.fixture
def old_record(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record with the first schema and one run with three rows."""
    path = lab_home / "runs.duckdb"
    with monkeypatch.context() as patch, duckdb.connect(str(path)) as connection:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:1])
        with Cursor(connection.cursor()) as cursor:
            migrate(cursor, str(path))
            cursor.execute("INSERT INTO runs (run_id, status, tags) VALUES ('r', 'finished', ['good'])")
            cursor.append(
                "metrics", ["run_id", "step", "name", "value"], [("r", s, "val/loss", 3.0 - s) for s in range(3)]
            )
    return path


def test_all_migrations_together_make_the_tables_that_the_code_knows(database: Database) -> None:
    with database.cursor() as cursor:
        found = cursor.execute("SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal")
        there: dict[str, dict[str, str]] = {}
        for table, column, kind in found.fetchall():
            there.setdefault(table, {})[column] = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}.get(kind, kind)
    for table in SCHEMA:
        assert there[table] == {name: column_type(table, name) for name in SCHEMA[table]}, table


def test_an_old_record_keeps_its_rows_and_is_summed_up(old_record: Path) -> None:
    with Database.open() as database:
        runs = list_runs(database)
        assert (runs["val_loss"][0], runs["best_val_loss"][0], runs["step"][0]) == (1.0, 1.0, 2)
        with database.cursor() as cursor:
            assert cursor.execute("SELECT count(*) FROM metrics").fetchone() == (3,)


def test_a_backup_of_the_old_schema_is_made_before_and_opens(old_record: Path) -> None:
    Database.open().close()
    (backup,) = list_backups(old_record)
    with duckdb.connect(str(backup), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM metrics").fetchall() == [(3,)]
        assert connection.sql("SELECT max(number) FROM schema_migrations").fetchall() == [(1,)]
    Database.open().close()
    assert list_backups(old_record) == [backup], "no migration, no backup"


def test_the_last_three_backups_are_kept(old_record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        extra = [_named(f"change_{i}") for i in range(number + 1)]
        monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, *extra))
        Database.open().close()
    found = [path.name.split("-")[0] for path in list_backups(old_record)]
    assert found == [f"schema{len(MIGRATIONS) + i}" for i in (2, 3, 4)]


def test_a_migration_that_fails_changes_nothing(old_record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(cursor: Cursor) -> None:
        cursor.execute("CREATE TABLE half (a INTEGER)")
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, half))
        with pytest.raises(StoreError, match="disk is full"):
            Database.open()
    with Database.open() as database, database.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half'").fetchone() == (0,)


def test_without_room_for_a_backup_nothing_is_changed(old_record: Path) -> None:
    (old_record.with_name("runs.duckdb.backups")).write_text("in the way")
    with pytest.raises(StoreError, match="nothing was changed"):
        Database.open()
    with duckdb.connect(str(old_record), read_only=True) as connection:
        assert connection.sql("SELECT max(number) FROM schema_migrations").fetchall() == [(1,)]


def _named(name: str):
    def migration(cursor: Cursor) -> None:
        cursor.execute(f"CREATE TABLE {name} (a INTEGER)")

    migration.__name__ = name
    return migration
