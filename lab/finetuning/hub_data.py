"""A data set of the hub, fetched once with its checksums; from then on it is on this machine."""

import re
from datetime import UTC, datetime
from pathlib import Path

from lab.download import Progress, download
from lab.errors import DataError
from lab.files import write_json
from lab.finetuning.rows import KINDS, NOTE, pulled_place
from lab.models.registry import is_hub_id
from lab.models.sources import Remote, RemoteFile, hub_files

MOST_BYTES = 2_000_000_000
"""Rows are read into memory as a whole: what is larger is better cut down by its owner's tools first."""
_WANTED = re.compile(r"(?:\w[\w. -]*/)*\w[\w. -]*\.(?:parquet|jsonl|json|csv)")
"""Names that begin with a dot are none of rows, and `..` would lead out of the folder."""
_BESIDE = re.compile(r"dataset_infos?\.json")


def plan(hub_id: str) -> tuple[Remote, list[RemoteFile]]:
    """The files that hold the training rows: of one kind, and of the part called train where there are parts.

    Raises:
        DataError: the name is none, there are no such files, or they are too large.
        DownloadError: the hub is not there, does not have it, or wants a token.
    """
    if not is_hub_id(hub_id):
        raise DataError(f"{hub_id!r} is no name of the hub: write OWNER/NAME.")
    remote = hub_files("datasets", hub_id, _WANTED)
    files = [file for file in remote.files if not _BESIDE.fullmatch(file.path)]
    files = [file for file in files if "train" in file.path] or files
    for kind in (".parquet", ".jsonl", ".json", ".csv"):
        chosen = sorted((file for file in files if file.path.endswith(kind)), key=lambda file: file.path)
        if chosen:
            break
    else:
        raise DataError(f"{hub_id} has no {', '.join(KINDS)} file on the hub, and the lab runs no code from there.")
    size = sum(file.bytes for file in chosen)
    if size > MOST_BYTES:
        raise DataError(f"{hub_id} has {size / 1e9:.1f} GB of rows; the lab reads up to {MOST_BYTES / 1e9:g} GB.")
    return remote, chosen


def pull(hub_id: str, progress: Progress | None = None) -> Path:
    """Fetch a data set; returns its folder. Goes on where it was cut.

    Args:
        progress: called with the bytes that are here, and the bytes of the whole.

    Raises:
        DataError, DownloadError: as `plan`; a connection that breaks again and again.
    """
    remote, files = plan(hub_id)
    folder, total, done = pulled_place(hub_id), sum(file.bytes for file in files), 0
    for file in files:

        def tell(here: int, _: int | None, before: int = done) -> None:
            if progress is not None:
                progress(before + here, total)

        download(
            file.url,
            folder / file.path,
            file.checksum,
            size=file.bytes,
            progress=tell,
            setting=remote.setting,
            headers=remote.headers,
        )
        done += file.bytes
    write_json(
        folder / NOTE,
        {
            "name": hub_id,
            "revision": remote.revision,
            "files": [file.path for file in files],
            "pulled_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return folder
