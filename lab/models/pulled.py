"""Models that were pulled: a folder each, with a note that says what it is and is written last."""

import os
import re
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab import paths
from lab.errors import LabError, ModelError
from lab.files import read_json, write_json

NOTE = "lab-model.json"


@dataclass(frozen=True, kw_only=True)
class PulledNote:
    """Where a pulled folder came from."""

    name: str
    source: str
    """The addresses that it was fetched from."""
    revision: str
    """The version of the package, or the commit on the hub."""
    licence: str
    files: dict[str, str]
    """Checksum of each file as it was fetched."""
    pulled_at: str = ""


def cache() -> Path:
    """The folder of pulled models. Setting: LAB_MODEL_CACHE, so that several labs can share one."""
    chosen = os.environ.get("LAB_MODEL_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else paths.cache() / "models"


def place_of(name: str) -> Path:
    """Where a model of this name lies, or will lie."""
    return cache() / re.sub(r"[^A-Za-z0-9._-]+", "--", name)


def pulled_folder(name: str) -> Path | None:
    """The folder of a model that was pulled completely."""
    folder = place_of(name)
    return folder if (folder / NOTE).is_file() else None


def finish(folder: Path, note: PulledNote) -> None:
    """Declare a folder complete."""
    write_json(folder / NOTE, {**asdict(note), "pulled_at": datetime.now(UTC).isoformat(timespec="seconds")})


def note_of(folder: Path) -> PulledNote | None:
    """What is written about a pulled folder; None for a folder of the person's own."""
    return PulledNote(**read_json(folder / NOTE)) if (folder / NOTE).is_file() else None


def pulled() -> list[PulledNote]:
    """Everything that was pulled, by name."""
    notes = [note_of(path.parent) for path in sorted(cache().glob(f"*/{NOTE}"))]
    return [note for note in notes if note is not None]


def remove(name: str) -> int:
    """Delete a pulled model; returns the bytes that this frees.

    Raises:
        ModelError: it is not here.
        LabError: it cannot be deleted.
    """
    folder = place_of(name)
    if not folder.is_dir():
        raise ModelError(f"{name} is not on this machine, so there is nothing to delete.")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        (folder / NOTE).unlink(missing_ok=True)  # from now on it is no model any more
        shutil.rmtree(folder)
    except OSError as error:
        raise LabError(f"{folder} could not be deleted: {error.strerror}; check the folder's permissions.") from error
    return size


def is_model_folder(folder: Path) -> bool:
    """Whether transformers could load it, without running code from it."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
