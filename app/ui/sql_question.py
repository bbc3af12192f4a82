"""A question to the record that runs beside the page, so that Stop can be pressed while it does.

The query itself runs in a child process (`lab.store.run_sql`); this thread only waits for it.
"""

import threading
import time
from dataclasses import dataclass, field

from lab.errors import LabError, StoreError
from lab.store import Database, SqlAnswer, run_sql
from lab.store.saved import remember_question

LIMIT = 10_000
"""Rows shown at most: more than a person reads, and what a browser takes without effort."""
TIMEOUT_S = 30.0


@dataclass(eq=False)
class Question:
    """One statement on its way. The page reads it; only its own thread writes."""

    sql: str
    limit: int = LIMIT
    started: float = field(default_factory=time.monotonic)
    answer: SqlAnswer | None = None
    error: LabError | None = None
    seconds: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _done: threading.Event = field(default_factory=threading.Event)

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def stop(self) -> None:
        """Give it up within a tenth of a second."""
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the answer for a moment; returns whether it is there."""
        return self._done.wait(seconds)


def ask(database: Database, sql: str, *, limit: int = LIMIT) -> Question:
    """Begin to answer a statement, and add it to the history when it is done."""
    question = Question(sql.strip().rstrip(";"), limit)
    threading.Thread(target=_answer, args=(database, question), name="sql-question", daemon=True).start()
    return question


def _answer(database: Database, question: Question) -> None:
    try:
        question.answer = run_sql(
            question.sql, limit=question.limit, timeout_s=TIMEOUT_S, stop=question._stop.is_set, path=database.path
        )
    except LabError as error:
        question.error = error
    except BaseException as error:  # the edge of this thread: the page must hear of it, not wait for ever
        question.error = StoreError(f"The query broke off: {type(error).__name__}: {error}")
        raise
    finally:
        question.seconds = time.monotonic() - question.started
        rows = question.answer.table.num_rows if question.answer else None
        try:
            remember_question(
                database,
                question.sql,
                seconds=question.seconds,
                rows=rows,
                error=str(question.error) if question.error else None,
            )
        finally:
            question._done.set()
