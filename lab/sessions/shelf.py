"""Models that stay loaded between questions, as many as memory allows.

Pages remember a model by its name, not by the object: they ask the shelf each time, and get it at once when it is
still there. When room is needed, the model that was asked longest ago goes. A training is never on the shelf, so it
is never put away.
"""

import gc
import threading
from collections import OrderedDict

import psutil
import torch

from lab.errors import CheckpointError, ModelError
from lab.models.pretrained import Told
from lab.sessions.opening import adapter_of, open_session, place_for, resolved, with_adapter
from lab.sessions.placing import Choice, Place, devices
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

    def get(
        self, ref: str, *, precision: Choice = "auto", device: str = "auto", tell: Told | None = None
    ) -> ModelSession:
        """The session of this model, loaded now or before. A run without a step is its newest state. An adapter is
        put on its base, which is loaded once however many adapters and pages ask for it.

        Args:
            tell: called while a model is loaded, as `open_session` does.

        Raises:
            LabError: as `open_session`; a ModelError when no room can be made.
        """
        for attempt in range(_TRIES):
            try:
                return self._get(resolved(ref), precision, device, tell)
            except CheckpointError:  # a live run replaced its newest state between our look and our read
                if "@" in ref or attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _get(self, ref: str, precision: Choice, device: str, tell: Told | None) -> ModelSession:
        with self._lock:
            adapter = adapter_of(ref)
            if adapter is not None:
                base = self._get(resolved(adapter.base), adapter.as_trained(precision), device, tell)
                return with_adapter(base, adapter)
            key = (ref, precision, device)
            if key not in self._sessions:
                place = self._place(ref, precision, device)
                if place.device == "cpu":
                    self._make_room(ref, place.needed)
                self._sessions[key] = open_session(ref, precision=place.precision, device=place.device, tell=tell)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def loaded(self) -> list[ModelSession]:
        """What stands here, the one asked longest ago first."""
        with self._lock:
            return list(self._sessions.values())

    @property
    def bytes(self) -> int:
        """Of the models that stand in the machine's memory; one on a GPU takes none of it."""
        sessions = [one for one in self.loaded() if next(one.model.parameters()).device.type == "cpu"]
        return sum(session.bytes for session in sessions)

    def drop(self, ref: str) -> None:
        """Put a model away, in all its precisions; nothing happens when it is not here."""
        with self._lock:
            for key in [key for key in self._sessions if key[0] == ref or key[0].partition("@")[0] == ref]:
                del self._sessions[key]
        gc.collect()

    def leave(self, device: str) -> None:
        """Put away what stands on a device and is not being asked: a training that begins there needs the room more.
        Who asks for such a model again gets it where there is room then."""
        with self._lock:
            while self._put_oldest_away(device):
                pass

    def clear(self) -> None:
        with self._lock:
            self._sessions.clear()
        gc.collect()

    def _place(self, ref: str, precision: Choice, device: str) -> Place:
        """Where it fits; models that nobody asks right now go for it, the one asked longest ago first. A training has
        its memory from elsewhere, and keeps it."""
        best = devices(device)[0]
        while True:
            try:
                place = place_for(ref, precision, device)
            except ModelError:
                if not self._put_oldest_away():
                    raise
                continue
            if place.device == best or not self._put_oldest_away(best):
                return place

    def _put_oldest_away(self, device: str | None = None) -> bool:
        """Put away the model that was asked longest ago and is not being asked; False when there is none.

        Args:
            device: only one that stands there.
        """
        for key, session in list(self._sessions.items()):
            where = next(session.model.parameters()).device.type
            if device in (None, where) and session.weights.lock.acquire(blocking=False):
                session.weights.lock.release()
                del self._sessions[key]
                del session
                gc.collect()
                if where == "cuda":
                    torch.cuda.empty_cache()  # or PyTorch keeps it for later, and it does not count as free
                return True
        return False

    def _make_room(self, ref: str, needed: int) -> None:
        if needed > self.limit:
            raise ModelError(
                f"{ref} needs {needed / 2**30:.1f} GiB, but opened models may take {self.limit / 2**30:.1f} GiB "
                "together on this machine: choose a coarser precision or a smaller model."
            )
        while self.bytes + needed > self.limit and self._put_oldest_away("cpu"):
            pass


shelf = Shelf()
"""The one of this process."""
