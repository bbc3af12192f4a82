"""Where a question is asked: a cursor, or whatever can give one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from lab.store.cursor import Cursor


class HasCursor(Protocol):
    """The owner's Database, or what `connect_readonly` gives."""

    def cursor(self) -> Cursor: ...


Source = Cursor | HasCursor


@contextmanager
def cursor_of(source: Source) -> Iterator[Cursor]:
    """The cursor itself, or a new one for this block."""
    if isinstance(source, Cursor):
        yield source
    else:
        with source.cursor() as cursor:
            yield cursor
