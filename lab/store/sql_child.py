"""Runs one query that somebody typed, in a process of its own. Started by `console.py`, never imported.

Inside one process DuckDB can be brought to take all memory (`repeat('x', 1e9)`, `range(2000000000)`), and a
training in it would die with it. Here the kernel sets the bounds: address space, no file may grow, low priority.

Standard input: JSON {"path", "sql", "limit", "timeout_s"}. Standard output: "T" and an Arrow stream, with the key
`more` in its metadata when rows were left out; or "E" and a sentence.
"""

import json
import os
import resource
import sys
from typing import Any

ADDRESS_SPACE = 2 << 30  # bytes; DuckDB's own limit below is reached first by honest queries
MEMORY_LIMIT = "512MB"
ANSWER_BYTES = 64 << 20

SETTINGS = (
    "SET temp_directory = ''",
    "SET enable_external_access = false",  # no COPY, ATTACH, read_csv, INSTALL, network
    "SET python_enable_replacements = false",  # a table name must not find a Python variable
    "SET operator_memory_limit = '400MB'",
    "SET TimeZone = 'UTC'",
)


def limit_this_process(timeout_s: float) -> None:
    """Bounds that no SQL can lift."""
    seconds = int(timeout_s) + 5
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.nice(19)  # a training on this machine comes first: at 10 a query would still take a tenth of one of its cores


def refuse(sql: str) -> str | None:
    """Why this is not one reading statement; None when it is."""
    import duckdb

    statements = duckdb.extract_statements(sql)
    if not statements:
        return "There is no query in this text."
    if len(statements) > 1:
        return f"One query at a time: this text holds {len(statements)} statements."
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        name = str(kind).rsplit(".", 1)[-1]
        return f"Only questions are answered here (SELECT, FROM, SHOW, DESCRIBE, EXPLAIN …), but this is {name}."
    return None


def answer(path: str, sql: str, limit: int, timeout_s: float) -> Any:
    """The first `limit` rows as an Arrow table."""
    import duckdb
    import pyarrow

    connection = duckdb.connect(path, read_only=True, config={"memory_limit": MEMORY_LIMIT, "threads": 1})
    for setting in SETTINGS:
        connection.execute(setting)
    connection.execute(f"SET max_execution_time = {int(timeout_s * 1000)}")
    connection.execute("SET lock_configuration = true")
    connection.execute("BEGIN TRANSACTION READ ONLY")
    relation = connection.sql(sql)
    reader = relation.to_arrow_reader(min(limit + 1, 2048))
    batches, rows, size, more = [], 0, 0, False
    for batch in reader:
        if rows + batch.num_rows > limit:
            batch, more = batch.slice(0, limit - rows), True
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if more or size > ANSWER_BYTES:
            more = True
            break
    table = pyarrow.Table.from_batches(batches, schema=reader.schema)
    return table.replace_schema_metadata({"more": "yes" if more else ""})


def main() -> None:
    question = json.loads(sys.stdin.buffer.read())
    import duckdb
    import pyarrow

    limit_this_process(question["timeout_s"])
    out = sys.stdout.buffer
    try:
        reason = refuse(question["sql"])
        if reason:
            out.write(b"E" + reason.encode())
            return
        table = answer(**question)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        out.write(b"T")
        out.write(sink.getvalue())
    except (MemoryError, pyarrow.ArrowMemoryError, duckdb.OutOfMemoryException):
        out.write(b"E" + f"The query needs more than the {MEMORY_LIMIT} of memory it may have: ask for less.".encode())
    except duckdb.InterruptException:
        out.write(b"E" + f"The query was stopped after {question['timeout_s']:g} s: ask for less.".encode())
    except duckdb.Error as error:
        out.write(b"E" + f"The query does not work: {error}".encode())


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # nothing to clean up, and a broken heap must not matter any more
