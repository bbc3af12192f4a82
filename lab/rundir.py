"""A job is its run directory: `outputs/<run_id>/` describes itself without the database.

What lies in it:

    run.json        who made it, when, from which parent, what it became
    labels.json     what people say of it: name, tags, note; laid over run.json
    config.json     the whole config, resolved
    tokenizer.json  the tokenizer the run was made with
    control.json    pause, stop, save: written by anyone, watched by the run
    run.lock        held while a process records this run
    checkpoints/    checkpoint-<step>.safetensors with a .json beside each
    resume/         the one rolling state to go on from after a crash
    adapter/        what a fine-tuning has learnt, as peft writes it
    segments/       rows written by a process that does not own the database
    traceback.txt   when something broke
"""

import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from lab import control, paths
from lab.config import RunConfig, from_json, to_json
from lab.errors import LabError, RunError
from lab.files import read_json, write_json

C = TypeVar("C", bound=RunConfig)

_SAFETENSORS_UNFINISHED = ".tmp??????"
"""safetensors writes under a name of its own, beside ours, and renames that."""
_LOCK_PATIENCE_S = 1.0  # somebody who only looks holds the lock for microseconds


@dataclass(frozen=True)
class RunDir:
    """The files of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def info_path(self) -> Path:
        return self.path / "run.json"

    @property
    def labels_path(self) -> Path:
        return self.path / "labels.json"

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def tokenizer_path(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def control_path(self) -> Path:
        return self.path / "control.json"

    @property
    def lock_path(self) -> Path:
        return self.path / "run.lock"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def resume(self) -> Path:
        return self.path / "resume"

    @property
    def segments(self) -> Path:
        return self.path / "segments"

    @property
    def memory_path(self) -> Path:
        """The step as it was forecast, and as the first real one came out, point by point."""
        return self.path / "memory.json"

    @property
    def traceback_path(self) -> Path:
        return self.path / "traceback.txt"

    def info(self) -> dict[str, Any]:
        """The content of run.json, with the labels laid over it."""
        info = read_json(self.info_path)
        return {**info, **read_json(self.labels_path)} if self.labels_path.exists() else info

    def label(self, **changes: Any) -> None:
        """Change some labels. In a file of their own: run.json is written by the process that trains, and by no
        other one at the same time."""
        with control.in_turn(self.path):
            labels = read_json(self.labels_path) if self.labels_path.exists() else {}
            write_json(self.labels_path, {**labels, **changes})

    def update_info(self, **changes: Any) -> None:
        """Change some entries of run.json, atomically. Only the process that holds the lock does this."""
        write_json(self.info_path, {**self.info(), **changes})

    def config(self) -> RunConfig:
        return from_json(read_json(self.config_path))

    def config_as(self, kind: type[C]) -> C:
        """The config of a run that has to be of this kind.

        Raises:
            RunError: it is of another one.
        """
        config = self.config()
        if not isinstance(config, kind):
            wanted = kind.model_fields["kind"].default
            raise RunError(f"Run {self.run_id} is of kind {config.kind}, but this is about {wanted} runs.")
        return config

    def write_config(self, config: RunConfig) -> None:
        write_json(self.config_path, to_json(config))

    def ask(self, *, want: control.Want | None = None, save: bool = False) -> None:
        """Ask the run, whichever process it lives in, to go on, pause, stop or save."""
        control.ask(self.control_path, want=want, save=save)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock: "I am the process that records this run".

        Raises:
            RunError: another process holds it.
        """
        with open(self.lock_path, "a") as file:
            deadline = time.monotonic() + _LOCK_PATIENCE_S
            while not _try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise RunError(f"Run {self.run_id} is being trained by another process; pause or stop it there.")
                time.sleep(0.02)
            yield

    def tidy(self) -> None:
        """Remove files that a killed process never finished. For the process that holds the lock."""
        for folder in (self.path, self.checkpoints, self.resume, self.segments):
            for path in (*folder.glob(".*.tmp"), *folder.glob(_SAFETENSORS_UNFINISHED)):
                if not path.name.startswith(f".{self.control_path.name}"):  # others write that one, maybe right now
                    path.unlink(missing_ok=True)

    def is_alive(self) -> bool:
        """Whether a process on this machine holds the run's lock."""
        try:
            # A shared lock: two that only look at the same moment must not take each other for the trainer.
            with open(self.lock_path) as file:
                return not _try_lock(file.fileno(), fcntl.LOCK_SH)  # closing the file gives it back
        except FileNotFoundError:
            return False


def _try_lock(handle: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def new_run_id() -> str:
    """Sortable by time, short enough to type: 20261120-0531-a3f9."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def create_run(config: RunConfig, *, name: str = "", parent: tuple[str, int] | None = None) -> RunDir:
    """Make the directory of a new run. Nothing is trained yet.

    Raises:
        LabError: the folder outputs/ cannot be written.
    """
    run = _new_directory()
    run.write_config(config)
    info = {
        "run_id": run.run_id,
        "name": name or run.run_id,
        "kind": config.kind,
        "status": "queued",
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "parent_run_id": parent[0] if parent else None,
        "parent_step": parent[1] if parent else None,
        "error": None,
    }
    write_json(run.info_path, info)
    return run


def _new_directory() -> RunDir:
    while True:
        run = RunDir(paths.outputs() / new_run_id())
        try:
            run.path.mkdir(parents=True)
        except FileExistsError:
            continue  # two runs of one second drew the same four digits
        except OSError as error:
            raise LabError(
                f"{run.path} cannot be made: {error.strerror}; free some disk space, or set LAB_HOME to a folder that "
                "can be written."
            ) from error
        else:
            return run


def all_runs() -> list[RunDir]:
    """Every run directory, oldest first. A name that begins with a dot is one in the making."""
    if not paths.outputs().is_dir():
        return []
    finished = (folder for folder in paths.outputs().iterdir() if not folder.name.startswith("."))
    return sorted(
        (RunDir(folder) for folder in finished if (folder / "run.json").is_file()),
        key=lambda run: run.run_id,
    )


def find_run(text: str) -> RunDir:
    """The run with this id, unique beginning of an id, or name.

    Raises:
        RunError: there is none, or more than one.
    """
    if not re.fullmatch(r"[^/\\]+", text) or text.startswith("."):
        raise RunError(f"{text!r} is not a run id or name; `lab runs list` shows them.")
    runs = all_runs()
    exact = [run for run in runs if run.run_id == text]
    found = exact or [run for run in runs if _name(run) == text]
    found = found or [run for run in runs if run.run_id.startswith(text)]
    if not found:
        raise RunError(f"There is no run {text!r}; `lab runs list` shows the runs there are.")
    if len(found) > 1:
        listed = ", ".join(run.run_id for run in found[:5])
        raise RunError(f"{text!r} fits {len(found)} runs ({listed}): give more of the id.")
    return found[0]


def _name(run: RunDir) -> str | None:
    try:
        return run.info()["name"]
    except LabError:
        return None  # a damaged run.json makes this run nameless, and no other one hard to find
