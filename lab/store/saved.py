"""What a person keeps between visits: views of the Runs page, queries of the console, and what was asked there."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lab.errors import StoreError
from lab.store.database import Database
from lab.store.run_search import RunSearch
from lab.store.source import Source, cursor_of

if TYPE_CHECKING:
    import pandas

HISTORY = 500  # questions kept


def save_view(database: Database, name: str, search: RunSearch) -> None:
    """Keep a search under a name; one that has it already is replaced."""
    _save(database, "view", name, json.dumps(search.to_json(), ensure_ascii=False))


def saved_views(source: Source) -> dict[str, RunSearch]:
    """Name -> search, by name."""
    return {name: RunSearch.from_json(json.loads(content)) for name, content in _saved(source, "view").items()}


def save_query(database: Database, name: str, sql: str) -> None:
    """Keep a query under a name; one that has it already is replaced."""
    _save(database, "query", name, sql)


def saved_queries(source: Source) -> dict[str, str]:
    """Name -> SQL, by name."""
    return _saved(source, "query")


def forget(database: Database, kind: str, name: str) -> None:
    """Remove what was saved; `kind` is "view" or "query"."""
    with database.writing() as cursor:
        cursor.execute("DELETE FROM saved WHERE kind = ? AND name = ?", [kind, name])


def remember_question(
    database: Database, sql: str, *, seconds: float, rows: int | None = None, error: str | None = None
) -> None:
    """Add to the console's history, of which the last 500 are kept."""
    with database.writing() as cursor:
        cursor.execute("INSERT INTO sql_history VALUES (?, ?, ?, ?, ?)", [datetime.now(UTC), sql, seconds, rows, error])
        cursor.execute(
            "DELETE FROM sql_history WHERE rowid < (SELECT min(rowid) FROM "
            "(SELECT rowid FROM sql_history ORDER BY rowid DESC LIMIT ?))",
            [HISTORY],
        )


def sql_history(source: Source, limit: int = 100) -> "pandas.DataFrame":
    """The last questions, newest first: asked_at, sql, seconds, rows, error."""
    with cursor_of(source) as cursor:
        return cursor.execute("SELECT * FROM sql_history ORDER BY rowid DESC LIMIT ?", [limit]).df()


def _save(database: Database, kind: str, name: str, content: str) -> None:
    name = " ".join(name.split())
    if not name:
        raise StoreError(f"A {kind} needs a name to be saved under.")
    with database.writing() as cursor:
        cursor.execute("DELETE FROM saved WHERE kind = ? AND name = ?", [kind, name])
        cursor.execute("INSERT INTO saved VALUES (?, ?, ?, ?)", [kind, name, content, datetime.now(UTC)])


def _saved(source: Source, kind: str) -> dict[str, str]:
    with cursor_of(source) as cursor:
        rows = cursor.execute("SELECT name, content FROM saved WHERE kind = ? ORDER BY lower(name)", [kind]).fetchall()
    return dict(rows)
