"""The file that holds a whole run: a zip with a manifest, so that any tool can look inside.

    manifest.json       format, version, run_id, and for each member its SHA-256, bytes and (for tables) rows
    run.json            the run's row: name, status, times, seed, device, versions, tags, note, notebook …
    config.json         the settings, for `lab train --like` (not for an imported run)
    tokenizer.json      where the run had one
    rows/<table>.parquet  metrics, samples, events, checkpoints, predictions: the rows in the order they came in
    checkpoints/…       on request

Parquet and weights are compressed already, so members are stored as they are.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lab.errors import LabError, StoreError
from lab.files import write_atomically

FORMAT = "llm-learning-lab run"
VERSION = 1
ENDING = ".labrun"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file of an archive, as its manifest tells it."""

    sha256: str
    bytes: int
    rows: int | None = None


class ArchiveWriter:
    """Adds members and remembers their hashes; `close` writes the manifest."""

    def __init__(self, archive: zipfile.ZipFile, run_id: str):
        self._archive = archive
        self._run_id = run_id
        self.members: dict[str, Member] = {}

    def add(self, name: str, content: bytes, rows: int | None = None) -> None:
        self._archive.writestr(_entry(name), content)
        self.members[name] = Member(hashlib.sha256(content).hexdigest(), len(content), rows)

    def add_file(self, name: str, path: Path) -> None:
        """A file of any size, a piece at a time."""
        digest, size = hashlib.sha256(), 0
        with open(path, "rb") as source, self._archive.open(_entry(name), "w", force_zip64=True) as target:
            while block := source.read(_BLOCK):
                digest.update(block)
                target.write(block)
                size += len(block)
        self.members[name] = Member(digest.hexdigest(), size)

    def close(self, **about: Any) -> None:
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "run_id": self._run_id,
            **about,
            "members": {name: vars(member) for name, member in self.members.items()},
        }
        self._archive.writestr(_entry("manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))


def write_archive(path: Path, run_id: str, fill: Callable[[ArchiveWriter], None], **about: Any) -> dict[str, Member]:
    """Write a file whole or not at all; `fill` adds its members.

    Raises:
        StoreError: it cannot be written.
    """
    members: dict[str, Member] = {}

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            writer = ArchiveWriter(archive, run_id)
            fill(writer)
            writer.close(**about)
        members.update(writer.members)

    try:
        write_atomically(path, write)
    except StoreError:
        raise
    except LabError as error:
        raise StoreError(str(error)) from error
    return members


class Archive:
    """An archive that has been opened for reading; use as a context manager."""

    def __init__(self, path: Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise StoreError(f"{path} is not a run archive, or is cut off ({error}).") from error
        try:
            self.manifest = json.loads(self._zip.read("manifest.json"))
            self.members = {name: Member(**member) for name, member in self.manifest["members"].items()}
            if self.manifest["format"] != FORMAT:
                raise KeyError("format")
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            self._zip.close()
            raise StoreError(f"{path} is a zip file, but not a run archive of the lab, or it is damaged.") from error
        if self.manifest["version"] > VERSION:
            self._zip.close()
            raise StoreError(f"{path} was written by a newer lab (version {self.manifest['version']}): update the lab.")
        self.path = path
        self.run_id: str = self.manifest["run_id"]

    def check(self) -> None:
        """Compare every member with its hash, before anything is taken from it.

        Raises:
            StoreError: one is damaged, missing, or stands where it does not belong.
        """
        for name, member in self.members.items():
            if name.startswith("/") or ".." in Path(name).parts or "\\" in name:
                raise StoreError(f"{self.path} holds a member named {name!r}, which would be written outside its run.")
            digest = hashlib.sha256()
            try:
                with self._zip.open(name) as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
            except (KeyError, zipfile.BadZipFile, OSError, EOFError) as error:
                raise StoreError(f"{self.path} is damaged: {name} is missing or cannot be read ({error}).") from error
            if digest.hexdigest() != member.sha256:
                raise StoreError(f"{self.path} is damaged: {name} does not have the hash that its manifest tells.")

    def open(self, name: str) -> BinaryIO:
        return self._zip.open(name)  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        return self._zip.read(name)

    def close(self) -> None:
        with suppress(OSError):
            self._zip.close()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def _entry(name: str) -> zipfile.ZipInfo:
    """Always the same date: the same run makes the same file."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    return entry
