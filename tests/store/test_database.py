import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from lab.config import PretrainConfig, leaves, to_json
from lab.errors import DatabaseBusy, StoreError
from lab.rundir import RunDir
from lab.store import Database, DatabaseRecorder, metric_info, predictions, run_row
from lab.store.migrations import FORGETTING_INFO, METRIC_INFO
from tests.store.conftest import losses, recorded_steps


def test_a_new_record_is_made_where_there_is_none(lab_home: Path) -> None:
    with Database.open() as database:
        assert database.path == lab_home / "runs.duckdb"
        assert database.notices == []
    assert [path.name for path in lab_home.iterdir()] == ["runs.duckdb"]


def test_every_metric_of_the_trainer_has_unit_direction_and_description(database: Database) -> None:
    info = metric_info(database)
    assert set(info) == {name for name, *_ in (*METRIC_INFO, *FORGETTING_INFO)}
    assert info["val/loss"]["unit"] == "nats per token"
    assert info["val/loss"]["better"] == "lower"
    assert all(entry["description"] for entry in info.values())


def test_the_wide_view_has_a_column_for_every_knob(database: Database) -> None:
    config = PretrainConfig()
    database.add_run({"run_id": "r", "kind": "pretrain", "config": to_json(config)})
    with database.cursor() as cursor:
        (row,) = cursor.execute("SELECT * FROM pretrain_runs").dicts()
    assert {leaf.name for leaf in leaves(PretrainConfig)} <= set(row)
    assert row["learning_rate"] == config.optim.learning_rate
    assert row["tie_embeddings"] is False
    assert row["max_steps"] == 1_000


def test_a_run_is_added_changed_hidden_and_restored(database: Database) -> None:
    database.add_run({"run_id": "r", "status": "queued", "versions": {"torch": "2.13"}, "tags": ["first"]})
    database.update_run("r", status="running", total_steps=2_000)
    row = run_row(database, "r")
    assert (row["status"], row["total_steps"], row["versions"]) == ("running", 2_000, {"torch": "2.13"})
    database.delete_run("r")
    assert run_row(database, "r")["deleted_at"] is not None
    database.restore_run("r")
    assert run_row(database, "r")["deleted_at"] is None


def test_a_misspelt_column_is_an_error_and_changes_nothing(database: Database) -> None:
    database.add_run({"run_id": "r", "status": "queued"})
    with pytest.raises(ValueError, match="staus"):
        database.update_run("r", staus="running")
    assert run_row(database, "r")["status"] == "queued"


def test_a_prediction_is_laid_beside_the_outcome(database: Database) -> None:
    database.add_prediction("r", "val/loss", 1.9, 1.8, 2.0)
    database.resolve_predictions("r", "val/loss", 1.95)
    (row,) = predictions(database, "r").to_dict("records")
    assert (row["predicted"], row["low"], row["high"], row["actual"], row["who"]) == (1.9, 1.8, 2.0, 1.95, "person")


def test_two_threads_with_their_own_cursors_never_get_each_others_answers(database: Database) -> None:
    wrong: list[int] = []

    def ask(mine: int) -> None:
        with database.cursor() as cursor:
            for _ in range(200):
                if cursor.execute("SELECT ? FROM range(50)", [mine]).fetchall() != [(mine,)] * 50:
                    wrong.append(mine)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_cursor_refuses_another_thread(database: Database) -> None:
    cursor = database.cursor()
    caught: list[Exception] = []

    def use() -> None:
        try:
            cursor.execute("SELECT 1")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "belongs to the thread" in str(caught[0])


def test_threads_that_change_the_same_run_do_not_conflict(database: Database) -> None:
    database.add_run({"run_id": "r"})
    errors: list[Exception] = []

    def change(number: int) -> None:
        try:
            for step in range(20):
                database.update_run("r", note=f"{number}-{step}")
        except duckdb.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_an_answer_that_was_read_halfway_does_not_block_the_next_write(database: Database) -> None:
    with database.cursor() as cursor:
        cursor.execute("SELECT * FROM range(100000)").fetchone()
        cursor.append("metrics", ["run_id", "step"], [("r", 1)])
    assert recorded_steps(database, "r") == [1]


def test_a_second_owner_in_this_process_is_refused(database: Database) -> None:
    with pytest.raises(DatabaseBusy, match=str(os.getpid())):
        Database.open()


def test_a_second_process_gets_one_sentence_with_the_owners_pid(database: Database) -> None:
    code = (
        "from lab.store import Database\n"
        "try: Database.open(patience_s=0)\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.startswith("DatabaseBusy")
    assert f"in use by process {os.getpid()}" in answer
    assert len(answer.strip().splitlines()) == 1


def test_closing_gives_the_file_back_although_cursors_are_open(lab_home: Path) -> None:
    database = Database.open()
    database.cursor().execute("SELECT 1")
    database.close()
    duckdb.connect(str(lab_home / "runs.duckdb")).close()
    with pytest.raises(StoreError, match="has been closed"):
        database.cursor()


def test_a_newer_schema_is_refused(lab_home: Path) -> None:
    with Database.open() as database, database.cursor() as cursor:
        cursor.execute("INSERT INTO schema_migrations VALUES (99, 'from_the_future', now())")
    for number in range(2):
        with pytest.raises(StoreError, match="newer lab"):
            Database.open()
        assert number < 2  # refused again: the first refusal left nothing open


def test_somebody_elses_duckdb_is_refused_and_untouched(lab_home: Path) -> None:
    path = lab_home / "runs.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE invoices (amount DOUBLE)")
    with pytest.raises(StoreError, match=r"not the lab's record .*invoices"):
        Database.open()
    with duckdb.connect(str(path)) as connection:
        assert connection.sql("SELECT table_name FROM duckdb_tables()").fetchall() == [("invoices",)]


@pytest.mark.parametrize(("content", "sentence"), [(b"", "is empty"), (b"Dear diary, " * 500, "not a DuckDB database")])
def test_a_file_that_is_no_database_is_refused_and_untouched(lab_home: Path, content: bytes, sentence: str) -> None:
    path = lab_home / "runs.duckdb"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=sentence):
        Database.open()
    assert path.read_bytes() == content


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StoreError, match="LAB_HOME"):
        Database.open()


def test_a_read_only_folder_is_one_sentence(read_only_disk: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        Database.open(read_only_disk / "runs.duckdb")
    with pytest.raises(StoreError, match="cannot be written"):
        Database.open(read_only_disk / "other.duckdb")


def test_a_full_disk_is_one_sentence_and_loses_nothing_acknowledged(small_disk: Path, run_dir: RunDir) -> None:
    path = small_disk / "runs.duckdb"
    database = Database.open(path)
    recorder = DatabaseRecorder(database, run_dir.run_id)
    (small_disk / "ballast").write_bytes(b"x" * (3 << 20))
    acknowledged = 0
    with pytest.raises(StoreError, match="disk is full"):
        for _ in range(500):
            recorder.rows("metrics", losses(range(acknowledged, acknowledged + 2_000)))
            recorder.flush()
            acknowledged += 2_000
    assert acknowledged > 0
    (small_disk / "ballast").unlink()
    database.close()
    with Database.open(path) as again:
        assert recorded_steps(again, run_dir.run_id) == list(range(acknowledged))


def test_the_store_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, lab.store; print([m for m in ('torch', 'pandas', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
