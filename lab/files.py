"""Writing files so that a crash leaves either the old one or the new one, never half of one."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import LabError

_BLOCK = 1 << 20  # bytes read at a time when hashing


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, sync it to disk, then rename it into place.

    Raises:
        LabError: the folder cannot be written or the disk is full; `path` is then untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise LabError(
            f"{path} could not be written: {error.strerror or error}. "
            "Free some disk space or check the folder's permissions; nothing there was changed."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON. Non-finite numbers are refused: they are not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LabError: it is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabError(f"{path} does not exist.") from error
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}; check the folder's permissions.") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise LabError(f"{path} is not readable JSON ({error}); it may be damaged.") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: on Linux the folder's entry is data of the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
