"""How long somebody waits for an answer: replays can be given up, or be forbidden."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_given_up: ContextVar[Callable[[], bool]] = ContextVar("given_up", default=lambda: False)
_may_lie_between: ContextVar[bool] = ContextVar("may_lie_between", default=False)
_ONE_REPLAY = threading.Lock()
"""Replays of several threads would only wait for each other's Python; one after the other shares the cache."""


class GivenUpError(Exception):
    """Nobody waits for this answer any more."""


@contextmanager
def giving_up_when(nobody_waits: Callable[[], bool]) -> Iterator[None]:
    """Within this, replays ask now and then whether their answer is still wanted, and raise `GivenUpError` if not."""
    before = _given_up.set(nobody_waits)
    try:
        yield
    finally:
        _given_up.reset(before)


@contextmanager
def without_replays() -> Iterator[None]:
    """Within this an answer is put together from what was replayed before: of the same values, or, to within half a
    percent, of others (`between.py`). Where that is not enough `GivenUpError` is raised."""
    before = _may_lie_between.set(True)
    try:
        with giving_up_when(lambda: True):
            yield
    finally:
        _may_lie_between.reset(before)


def may_lie_between() -> bool:
    """Whether an answer may be put together from others."""
    return _may_lie_between.get()


@contextmanager
def one_replay() -> Iterator[None]:
    """Around each replay.

    Raises:
        GivenUpError: nobody waits for it.
    """
    check()
    with _ONE_REPLAY:
        yield


def check() -> None:
    """
    Raises:
        GivenUpError: nobody waits.
    """
    if _given_up.get()():
        raise GivenUpError
