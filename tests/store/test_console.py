import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest

from lab.errors import StoreError
from lab.files import sha256_of
from lab.store import Database, SqlAnswer, console, run_sql
from tests.store.conftest import losses

SECRET = "/etc/passwd"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A closed record with one run of 3,000 rows; no test of this file can change it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(home))
        _fill()
        run_sql("SELECT 1")  # the first look settles the file
        yield home / "runs.duckdb"


def _fill() -> None:
    with Database.open() as database:
        database.add_run({"run_id": "r", "name": "one", "status": "finished", "created_at": "2026-11-20 05:00:00+00"})
        with database.writing() as cursor:
            rows = [("r", row["step"], row["name"], row["value"]) for row in losses(range(3_000))]
            cursor.append("metrics", ["run_id", "step", "name", "value"], rows)


def test_a_question_is_answered(record: Path) -> None:
    answer = run_sql("SELECT r.name, max(step) AS last FROM runs r JOIN metrics USING (run_id) GROUP BY r.name")
    assert answer.table.to_pylist() == [{"name": "one", "last": 2_999}]
    assert answer.notice == ""


@pytest.mark.parametrize(
    "sql",
    ["FROM runs", "SHOW TABLES", "DESCRIBE runs", "EXPLAIN SELECT 1", "WITH a AS (SELECT 1) FROM a", "VALUES (1);"],
)
def test_every_way_to_ask_is_allowed(record: Path, sql: str) -> None:
    assert run_sql(sql).table.num_rows >= 1


def test_more_rows_than_the_limit_are_cut_with_a_notice(record: Path) -> None:
    answer = run_sql("SELECT step FROM metrics ORDER BY step DESC", limit=10)
    assert answer.table.column("step").to_pylist() == list(range(2_999, 2_989, -1))
    assert "first 10 rows" in answer.notice
    assert run_sql("SELECT step FROM metrics", limit=3_000).notice == ""


def test_answers_can_be_had_as_table_csv_json_and_parquet(record: Path, tmp_path: Path) -> None:
    answer = run_sql("SELECT name, created_at, 0.5::DOUBLE AS v, 'nan'::DOUBLE AS bad, NULL AS none, sum(range) AS s "
                     "FROM runs, range(3) GROUP BY ALL")  # fmt: skip
    (row,) = json.loads(answer.text("json"))
    assert row == {
        "name": "one",
        "created_at": "2026-11-20T05:00:00+00:00",
        "v": 0.5,
        "bad": None,
        "none": None,
        "s": 3,
    }
    assert answer.text("csv").splitlines() == [
        "name,created_at,v,bad,none,s",
        "one,2026-11-20T05:00:00+00:00,0.5,nan,,3",
    ]
    assert answer.text("table").splitlines()[2].split() == ["one", "2026-11-20", "05:00:00", "0.5", "nan", "3"]
    answer.write(tmp_path / "out.parquet", "parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").num_rows == 1
    answer.write(tmp_path / "out.csv", "csv")
    assert (tmp_path / "out.csv").read_text() == answer.text("csv")
    with pytest.raises(StoreError, match="could not be written"):
        answer.write(tmp_path / "out.csv" / "x.csv", "csv")


HOSTILE = [
    "DELETE FROM metrics",
    "UPDATE runs SET name = 'x'",
    "INSERT INTO runs (run_id) VALUES ('x')",
    "DROP TABLE runs",
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t AS SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM metrics",
    "WITH gone AS (DELETE FROM metrics RETURNING *) SELECT * FROM gone",
    "SELECT 1; DELETE FROM metrics",
    "SELECT 1;\u00a0DROP TABLE runs",
    "BEGIN TRANSACTION; DELETE FROM metrics; COMMIT",
    "COMMIT",
    f"COPY metrics TO '{'{out}'}'",
    f"COPY (SELECT 1) TO '{'{out}'}' (FORMAT csv)",
    "EXPORT DATABASE '{out}'",
    "ATTACH '{out}' AS other",
    "ATTACH ':memory:' AS other",
    f"SELECT * FROM read_csv('{SECRET}')",
    f"SELECT * FROM read_text('{SECRET}')",
    f"SELECT * FROM read_blob('{SECRET}')",
    f"FROM '{SECRET}'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_parquet('https://example.org/x.parquet')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "SELECT * FROM table_that_python_knows",
    "SELECT * FROM SETTINGS",
    "PREPARE x AS DELETE FROM metrics",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "",
    "-- only a comment",
    # writes in other clothes
    "/* SELECT */ DeLeTe /* */ FrOm metrics",
    "TRUNCATE metrics",
    "INSERT OR REPLACE INTO runs (run_id) SELECT 'x'",
    "MERGE INTO runs USING (SELECT 'x' AS i) s ON run_id = i WHEN NOT MATCHED THEN INSERT (run_id) VALUES ('x')",
    "ALTER TABLE runs ADD COLUMN owned INTEGER",
    "CREATE OR REPLACE VIEW run_summary AS SELECT 1",
    "COMMENT ON TABLE runs IS 'mine'",
    "EXPLAIN ANALYZE INSERT INTO runs (run_id) VALUES ('x')",
    "EXPLAIN ANALYZE COPY metrics TO '{out}'",
    "CREATE SEQUENCE s",
    "CREATE TYPE mood AS ENUM ('sad')",
    "SELECT nextval('s')",
    # ways out of the file
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_csv_auto(['/etc/passwd', '/etc/hosts'])",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM duckdb_secrets() WHERE write_blob('x')",
    "SELECT content FROM read_text('file:///etc/passwd')",
    "SELECT * FROM '/proc/self/environ'",
    "SELECT * FROM query('DELETE FROM metrics')",
    "SELECT * FROM query_table('/etc/passwd')",
    "DETACH runs",
    "USE memory",
    "FORCE INSTALL spatial FROM 'http://example.org'",
    "UPDATE EXTENSIONS",
    "PRAGMA enable_external_access=true",
    "SET lock_configuration = false",
    "SET memory_limit = '100GB'",
    "SET VARIABLE x = 1",
    "SELECT load_aws_credentials()",
    # several statements, or one that hides another
    "SELECT 1;;DELETE FROM metrics;",
    "SELECT 1 -- ;\n; DELETE FROM metrics",
    "SELECT ';' ; DROP TABLE runs",
    "EXECUTE x",
    "DEALLOCATE x",
    # tricks with letters
    "DELETE\u00a0FROM\u2003metrics",
    "\ufeffDELETE FROM metrics",
    "ＤＥＬＥＴＥ ＦＲＯＭ metrics",
    "SELECT 1\u037e DELETE FROM metrics",  # a Greek question mark looks like a semicolon
    "\u202eDELETE FROM metrics",
    "DELETE FROM metrics\x00 -- SELECT",
    "SELECT\x00 1",
]


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_statement_that_is_no_question_is_refused_and_changes_nothing(record: Path, sql: str, tmp_path: Path) -> None:
    before = sha256_of(record)
    out = tmp_path / "stolen"
    with pytest.raises(StoreError):
        run_sql(sql.replace("{out}", str(out)))
    assert not out.exists()
    assert sha256_of(record) == before


BOMBS = [
    "SELECT length(repeat('x', 1000000000) || repeat('y', 1000000000))",
    "SELECT repeat('x', 400000000)",
    "SELECT range(2000000000)",
    "SELECT list(a.range) FROM range(100000000) a",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "SELECT string_agg(a.range::VARCHAR, 'x' ORDER BY a.range DESC) FROM range(200000000) a",
    "SELECT " + "(" * 50_000 + "1" + ")" * 50_000,
    "SELECT count(*) FROM range(100000) t WHERE regexp_matches(repeat('ab', 100000) || range, '(a|b)*c')",
]


@pytest.mark.parametrize("sql", BOMBS, ids=lambda sql: sql[:40])
def test_a_query_that_wants_all_memory_or_all_time_is_ended(record: Path, sql: str) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"memory|stopped after|does not work"):
        run_sql(sql, timeout_s=1.0)
    assert time.monotonic() - started < 8


def test_an_endless_answer_is_cut_without_computing_the_rest(record: Path) -> None:
    answer = run_sql("SELECT * FROM range(3000000000)", limit=5, timeout_s=5)
    assert answer.table.num_rows == 5
    assert answer.notice


def test_a_query_can_be_stopped(record: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match="on request"):
        run_sql(BOMBS[5], stop=lambda: time.monotonic() - started > 0.4)
    assert time.monotonic() - started < 3


def test_beside_a_training_a_long_query_rests_and_its_answer_is_whole(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "SELECT string_agg(range::VARCHAR, 'x') FROM range(3000000)"
    alone = run_sql(long).table
    rests: list[float] = []

    def rest(child: "subprocess.Popen[bytes]") -> float:
        rests.append(real_rest(child))
        return rests[-1]

    real_rest = console._rest
    monkeypatch.setattr(console, "_rest", rest)
    monkeypatch.setattr(console, "_QUICK_S", 0.0)
    monkeypatch.setattr(console, "_TURN_S", 0.01)
    monkeypatch.setattr(console.BusyCores, "look", lambda _: 99.0)
    answer = run_sql(long)
    assert answer.table.equals(alone)
    assert len(rests) > 5
    assert answer.seconds > sum(rests)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with the one that started it")
def test_a_query_that_rests_ends_with_the_one_who_asked(record: Path) -> None:
    asks = (
        "import os, signal\n"
        "from lab.store import console\n"
        "def rest(child):\n"
        "    child.send_signal(signal.SIGSTOP)\n"
        "    print(child.pid, flush=True)\n"
        "    os._exit(9)\n"
        "console._rest, console._QUICK_S, console.BusyCores.look = rest, 1.0, lambda _: 99.0\n"
        f"console.run_sql({BOMBS[5]!r})\n"
    )
    said = subprocess.run([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True, timeout=60)
    child = int(said.stdout)
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("it stands still for ever")


def test_where_a_core_is_free_no_query_rests(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object) -> float:
        raise AssertionError("rested")

    monkeypatch.setattr(console, "_rest", never)
    monkeypatch.setattr(console, "_QUICK_S", 0.0)
    monkeypatch.setattr(console.BusyCores, "look", lambda _: console.cores() - 1.0)
    assert run_sql("SELECT string_agg(range::VARCHAR, 'x') FROM range(3000000)").table.num_rows == 1


def test_a_limit_below_one_is_refused(lab_home: Path) -> None:
    with pytest.raises(StoreError, match="limit is 0"):
        run_sql("SELECT 1", limit=0)


def test_while_this_process_owns_the_record_a_copy_is_asked(database: Database) -> None:
    database.add_run({"run_id": "r"})
    answer = run_sql("SELECT run_id FROM runs")
    assert isinstance(answer, SqlAnswer)
    assert answer.table.to_pylist() == [{"run_id": "r"}]
    assert answer.as_of is not None
