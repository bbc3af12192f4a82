"""Models that stay loaded between questions, as many as memory allows.

Pages remember a model by its name, not by the object: they ask the shelf each time, and get it at once when it is
still there. When room is needed, the model that was asked longest ago goes. A training is never on the shelf, so it
is never put away.
"""

import gc
import threading
from collections import OrderedDict

import psutil

from lab.errors import CheckpointError, ModelError
from lab.sessions.opening import Choice, needs, open_session, resolved
from lab.sessions.session import ModelSession

_SHARE = 0.5
"""Of the machine's memory, that the shelf may hold; the rest belongs to trainings and to the page."""

_TRIES = 20  # a run of tiny steps replaces its state many times a second

Key = tuple[str, Choice, str]


class Shelf:
    """Opens sessions, keeps them, and makes room.

    Args:
        limit: bytes of weights that may stand here; half of the machine's memory when left out.
    """

    def __init__(self, limit: int | None = None):
        self.limit = int(_SHARE * psutil.virtual_memory().total) if limit is None else limit
        self._lock = threading.RLock()
        self._sessions: OrderedDict[Key, ModelSession] = OrderedDict()  # the one asked last stands last

    def get(self, ref: str, *, precision: Choice = "auto", device: str = "cpu") -> ModelSession:
        """The session of this model, loaded now or before. A run without a step is its newest state.

        Raises:
            LabError: as `open_session`; a ModelError when no room can be made.
        """
        for attempt in range(_TRIES):
            try:
                return self._get((resolved(ref), precision, device))
            except CheckpointError:  # a live run replaced its newest state between our look and our read
                if "@" in ref or attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _get(self, key: Key) -> ModelSession:
        ref, precision, device = key
        with self._lock:
            if key not in self._sessions:
                self._make_room(ref, needs(ref, precision, device))
                self._sessions[key] = open_session(ref, precision=precision, device=device)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def loaded(self) -> list[ModelSession]:
        """What stands here, the one asked longest ago first."""
        with self._lock:
            return list(self._sessions.values())

    @property
    def bytes(self) -> int:
        return sum(session.bytes for session in self.loaded())

    def drop(self, ref: str) -> None:
        """Put a model away, in all its precisions; nothing happens when it is not here."""
        with self._lock:
            for key in [key for key in self._sessions if key[0] == ref or key[0].partition("@")[0] == ref]:
                del self._sessions[key]
        gc.collect()

    def clear(self) -> None:
        with self._lock:
            self._sessions.clear()
        gc.collect()

    def _make_room(self, ref: str, needed: int) -> None:
        if needed > self.limit:
            raise ModelError(
                f"{ref} needs {needed / 2**30:.1f} GiB, but opened models may take {self.limit / 2**30:.1f} GiB "
                "together on this machine: choose a coarser precision or a smaller model."
            )
        for key, session in list(self._sessions.items()):
            if self.bytes + needed <= self.limit:
                return
            if session.lock.acquire(blocking=False):  # nobody is asking it right now
                session.lock.release()
                del self._sessions[key]
                del session
                gc.collect()


shelf = Shelf()
"""The one of this process."""
