"""Asking a run to pause, stop or save, from any thread, page or process.

One small file in the run's directory is the only channel: the app's buttons and the command line write it,
whichever process trains watches it. A look costs one `stat`.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lab.files import read_json, write_json

Want = Literal["run", "pause", "stop"]


def ask(path: Path, *, want: Want | None = None, save: bool = False) -> None:
    """Write what is wanted of the run whose control file this is.

    Args:
        want: go on, pause or stop; None leaves it as it is.
        save: also ask for a checkpoint now.
    """
    with in_turn(path.parent):
        current: dict[str, Any] = read_json(path) if path.exists() else {"want": "run", "saves": 0}
        if want is not None:
            current["want"] = want
        current["saves"] += int(save)
        write_json(path, current)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """One asker at a time: of two that read the old content at once, the second would undo the first's stop."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # gives the lock back


class Control:
    """What the training side sees of the control file. Looked at each micro-step, evaluation batch and token."""

    def __init__(self, path: Path):
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._want: Want = "run"
        self._saves = 0
        self._saves_done = 0
        self._read()
        self._saves_done = self._saves  # a request from before this process is not ours

    @property
    def want(self) -> Want:
        self._read()
        return self._want

    @property
    def stopping(self) -> bool:
        return self.want == "stop"

    def take_save(self) -> bool:
        """True once for each time somebody pressed "Save now"."""
        self._read()
        if self._saves > self._saves_done:
            self._saves_done = self._saves
            return True
        return False

    def _read(self) -> None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        content = read_json(self.path)
        self._want, self._saves = content["want"], content["saves"]
