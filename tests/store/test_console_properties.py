"""The guard of the SQL console, against statements nobody has thought of."""

import random
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.files import sha256_of
from lab.store import Database, sql_child

WRITES = [
    "DELETE FROM metrics",
    "UPDATE runs SET name = 'x'",
    "INSERT INTO runs (run_id) VALUES ('x')",
    "DROP TABLE runs",
    "CREATE TABLE t AS SELECT 1",
    "ALTER TABLE runs DROP COLUMN name",
    "TRUNCATE metrics",
    "COPY metrics TO '/tmp/lab-stolen'",
    "ATTACH '/tmp/lab-stolen' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "CHECKPOINT",
    "EXPORT DATABASE '/tmp/lab-stolen'",
    "PRAGMA force_checkpoint",
]
SPACES = [" ", "\n", "\t", "  ", " /* x */ ", " -- x\n", "\r\n", "\u00a0", "\u2003"]
FRAMES = [
    "{}",
    "EXPLAIN ANALYZE {}",
    "EXPLAIN {}",
    "WITH a AS ({}) SELECT * FROM a",
    "WITH a AS MATERIALIZED ({} RETURNING *) SELECT * FROM a",
    "SELECT * FROM ({})",
    "SELECT 1; {}",
    "{}; SELECT 1",
    "SELECT ({})",
    "SELECT * FROM query('{}')",
    "BEGIN; {}; COMMIT",
    "PREPARE p AS {}",
    "-- {}\n{}",
    "/* {} */ {}",
]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "runs.duckdb"
    with Database.open(path) as database:
        database.add_run({"run_id": "r", "name": "one"})
        with database.writing() as cursor:
            cursor.append("metrics", ["run_id", "step", "name", "value"], [("r", s, "a", s) for s in range(100)])
    return path


def _ask(record: Path, sql: str) -> str:
    """What the child would say: "refused", "fails" or "answered". Runs here, so that hundreds take seconds."""
    try:
        if sql_child.refuse(sql):
            return "refused"
        sql_child.answer(str(record), sql, 10)
    except duckdb.Error:
        return "fails"
    return "answered"


def _disguised(sql: str, luck: random.Random) -> str:
    """The same statement in mixed case, with other spaces and comments between its words."""
    words = sql.split(" ")
    mixed = [
        word if "'" in word else "".join(luck.choice((letter.upper(), letter.lower())) for letter in word)
        for word in words
    ]
    text = mixed[0]
    for word in mixed[1:]:
        text += luck.choice(SPACES) + word
    return text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(write=st.sampled_from(WRITES), frame=st.sampled_from(FRAMES), seed=st.integers(0, 2**32))
def test_no_write_in_any_disguise_is_answered_or_changes_the_file(
    record: Path, write: str, frame: str, seed: int
) -> None:
    before = sha256_of(record)
    sql = frame.replace("{}", _disguised(write, random.Random(seed)).replace("'", "''") if "query(" in frame else write)
    sql = sql if "query(" in frame else _disguised(sql, random.Random(seed))
    said = _ask(record, sql)
    if said == "answered":  # a plan is no change; a comment that ends the line may leave a harmless rest
        kinds = [statement.type for statement in duckdb.extract_statements(sql)]
        assert kinds in ([duckdb.StatementType.EXPLAIN], [duckdb.StatementType.SELECT]), sql
    assert sha256_of(record) == before
    assert not record.with_name("runs.duckdb.wal").exists()
    assert not Path("/tmp/lab-stolen").exists()
    with duckdb.connect(str(record), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM metrics").fetchall() == [(100,)]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_is_answered_refused_or_one_error_of_duckdb(record: Path, text: str) -> None:
    assert _ask(record, text) in ("answered", "refused", "fails")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.sampled_from(["SELECT 1", "FROM runs", "SHOW TABLES"]),
    second=st.sampled_from(WRITES),
    gap=st.text(";\n\t \r", min_size=1),
)
def test_two_statements_are_never_taken_for_one(record: Path, first: str, second: str, gap: str) -> None:
    if ";" in gap:
        assert "statements" in (sql_child.refuse(f"{first}{gap}{second}") or "")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(literal=st.text(alphabet="';-/*\"\\ DROPdrop\n", max_size=20))
def test_what_stands_in_a_text_is_no_statement(record: Path, literal: str) -> None:
    quoted = literal.replace("'", "''")
    assert sql_child.refuse(f"SELECT '{quoted}' AS t") is None
    found = sql_child.answer(str(record), f"SELECT '{quoted}' AS t", 10)
    assert found.column("t").to_pylist() == [literal]
