"""Runs one query that somebody typed, in a process of its own. Started by `console.py`, never imported.

Inside one process DuckDB can be brought to take all memory (`repeat('x', 1e9)`, `range(2000000000)`), and a
training in it would die with it. Here the kernel sets the bounds: address space, time, no file may grow.

Standard input: JSON {"path", "sql", "limit", "timeout_s"}. Standard output: "T" and an Arrow stream, with the key
`more` in its metadata when rows were left out; or "E" and a sentence.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

ADDRESS_SPACE = 2 << 30  # bytes; DuckDB's own limit below is reached first by honest queries
MEMORY_LIMIT = "512MB"
ANSWER_BYTES = 64 << 20
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h

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
    if sys.platform == "linux":
        # It may be stopped when the one who asked is killed, and nobody else would ever let it go on.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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


def answer(path: str, sql: str, limit: int) -> Any:
    """The first `limit` rows as an Arrow table."""
    import duckdb
    import pyarrow

    connection = duckdb.connect(path, read_only=True, config={"memory_limit": MEMORY_LIMIT, "threads": 1})
    for setting in SETTINGS:
        connection.execute(setting)
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


def say(kind: bytes, data: Any) -> None:
    """Write the answer whole: a process that is stopped and continued meanwhile writes in parts, and Python's own
    buffered output takes the first part for all.
    """
    for part in (memoryview(kind), memoryview(data)):
        while part:
            part = part[os.write(1, part) :]


def main() -> None:
    question = json.loads(sys.stdin.buffer.read())
    import duckdb
    import pyarrow

    limit_this_process(question.pop("timeout_s"))
    try:
        reason = refuse(question["sql"])
        if reason:
            say(b"E", reason.encode())
            return
        table = answer(**question)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        say(b"T", sink.getvalue())
    except (MemoryError, pyarrow.ArrowMemoryError, duckdb.OutOfMemoryException):
        say(b"E", f"The query needs more than the {MEMORY_LIMIT} of memory it may have: ask for less.".encode())
    except duckdb.Error as error:
        say(b"E", f"The query does not work: {error}".encode())


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing to clean up, and a broken heap must not matter any more
