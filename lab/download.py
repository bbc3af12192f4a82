"""Fetching a file whose checksum is known: it goes on where it was cut, and what arrives is what was promised.

Bytes are collected in `<target>.part` and renamed only when their checksum is right, so `target` is there whole or
not at all. A later call asks the server for the rest only (HTTP Range); one that does not know Range sends all again.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lab.errors import DownloadError

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here, and the bytes of the whole file where they are known."""

ATTEMPTS = 3  # a cut connection is taken up again this often before a person hears of it
_BLOCK = 1 << 16


@dataclass(frozen=True)
class _Source:
    """Where the bytes come from and what they must be."""

    url: str
    checksum: str
    size: int | None
    timeout_s: float
    setting: str
    headers: dict[str, str]


class _Cut(Exception):
    """The connection ended or stalled early; what came is kept."""


def download(
    url: str,
    target: Path,
    checksum: str,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    timeout_s: float = 20.0,
    setting: str = "LAB_TEXT_BASE_URL",
    headers: Mapping[str, str] | None = None,
) -> None:
    """Fetch `url` into `target`. Does nothing when it is there already.

    Args:
        checksum: of the whole file: its SHA-256 as 64 hex digits, or the name that git gives it, 40 hex digits.
        size: bytes of the whole file, where known: a longer answer is refused early.
        timeout_s: longest silence of the server, while connecting and between two blocks.
        setting: the environment variable by which a person chooses another source, named in the sentences.
        headers: sent along, such as an access token; not handed on to another host.

    Raises:
        DownloadError: the address is wrong, the connection breaks or stalls again and again, the content is not
            what was promised, or the disk refuses it. The sentence says which, and what to do.
    """
    if target.exists() and _checksum_of(target, checksum) == checksum:
        return
    source = _Source(url, checksum, size, timeout_s, setting, dict(headers or {}))
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part, url) as file:
            _fetch(source, file, progress or (lambda done, total: None))
            os.fsync(file.fileno())
            os.replace(part, target)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DownloadError(
            f"{target} could not be written: {reason}. Free some space or check the folder, then download again."
        ) from error


@contextmanager
def _alone(part: Path, url: str) -> Iterator[BinaryIO]:
    """Open the partial file for us only: two writers at once would mix their bytes."""
    with open(part, "a+b") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{url} is being downloaded by another process: wait for it.") from error
        try:
            yield file
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()


def _fetch(source: _Source, file: BinaryIO, progress: Progress) -> None:
    """Bring the partial file to the right content."""
    resumed = file.seek(0, os.SEEK_END) > 0
    if resumed and _checksum(file, source.checksum) == source.checksum:
        return
    for attempt in range(1, ATTEMPTS + 1):
        last = attempt == ATTEMPTS
        try:
            _receive(source, file, progress)
        except _Cut as cut:
            if last:
                raise DownloadError(f"{cut}. Download again to go on from there.") from cut
            resumed = True
            continue
        if _checksum(file, source.checksum) == source.checksum:
            return
        got = file.seek(0, os.SEEK_END)
        file.truncate(0)
        if last or not resumed:
            raise DownloadError(
                f"{source.url} sent {got:,} bytes whose checksum is not the promised one: it is another file, or it "
                f"was damaged on the way. Nothing was kept; try again, or set {source.setting} to another source."
            )
        resumed = False  # the part from before may be the damaged one: once more, from the start


def _receive(source: _Source, file: BinaryIO, progress: Progress) -> None:
    """Append to the file what it still lacks.

    Raises:
        _Cut: the server stopped early.
        DownloadError: it will not send it at all.
    """
    import httpx  # here, because it takes a tenth of a second that a start-up without download need not pay

    url, size, setting = source.url, source.size, source.setting
    start = file.seek(0, os.SEEK_END)
    # identity: a compressed answer would have other bytes, and another idea of where to resume
    headers = source.headers | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    done, total = start, size
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=source.timeout_s) as response:
            if response.status_code == 200:  # the whole file, also where only the rest was asked for
                file.truncate(0)
                done = 0
            elif start and response.status_code in (206, 416) and not _continues_at(response, start):
                file.truncate(0)  # what is here is longer than the file, or the server counts otherwise
                raise _Cut(f"{url} would not go on at byte {start:,}")
            elif response.status_code != 206:
                raise DownloadError(_refusal(source, response.status_code))
            if "Content-Length" in response.headers:
                total = done + int(response.headers["Content-Length"])
            progress(done, total)
            # Pieces as they come: gathering blocks of a fixed size would lose the last, unfilled one at a cut.
            for block in response.iter_raw():
                file.write(block)
                done += len(block)
                if size is not None and done > size:
                    file.truncate(0)
                    raise DownloadError(
                        f"{url} sent more than the {size:,} bytes that were promised: it is another file. "
                        f"Nothing was kept; set {setting} to another source."
                    )
                progress(done, total)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise DownloadError(f"{url} is not an address that can be downloaded ({error}).") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise DownloadError(
            f"{url} cannot be reached ({error}): check the connection, or set {setting} to a source you reach."
        ) from error
    except httpx.TimeoutException as error:
        raise _Cut(f"{url} sent nothing for {source.timeout_s:g} s after {done:,}{_of(total)} bytes") from error
    except httpx.TransportError as error:
        raise _Cut(f"The connection to {url} broke after {done:,}{_of(total)} bytes") from error
    finally:
        file.flush()
    if total is not None and done < total:
        raise _Cut(f"{url} ended after {done:,}{_of(total)} bytes")


def _continues_at(response: "httpx.Response", start: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _refusal(source: _Source, status: int) -> str:
    url, setting = source.url, source.setting
    if status == 404:
        return f"{url} does not exist (404): set {setting} to a source that has it."
    if status in (401, 403):
        return f"{url} is not open to everyone (status {status}): accept its licence there, and give your access token."
    return f"{url} was refused by the server (status {status}): try again later, or set {setting}."


def _of(total: int | None) -> str:
    return f" of {total:,}" if total is not None else ""


def _checksum_of(path: Path, like: str) -> str:
    with open(path, "rb") as file:
        return _checksum(file, like)


def _checksum(file: BinaryIO, like: str) -> str:
    """The checksum of a file, of the kind that `like` is."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:  # git hashes the word blob and the length before the content
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
