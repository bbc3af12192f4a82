"""Downloads from a web server on this machine that misbehaves on request."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.data.corpora import download_corpus, find_corpus, read_text
from lab.download import ATTEMPTS, download
from lab.errors import DownloadError
from tests.loopback import (
    CONTENT,
    SHA256,
    Answer,
    Handler,
    Server,
    corrupt,
    cut,
    ignore_range,
    longer,
    stall,
    status,
    whole,
    without_length,
    without_length_cut,
    wrong_range,
)  # fmt: skip


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "texts" / "file.txt"


def part_of(target: Path) -> Path:
    return target.with_name("file.txt.part")


def test_a_file_comes_whole_with_progress(serve: Callable[..., Server], target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download(serve(whole).file, target, SHA256, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_what_is_here_is_not_fetched_again(serve: Callable[..., Server], target: Path) -> None:
    server = serve(whole)
    for _ in range(2):
        download(server.file, target, SHA256)
    assert len(server.ranges) == 1


def test_a_wrong_file_in_its_place_is_replaced(serve: Callable[..., Server], target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"something else")
    download(serve(whole).file, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_was_cut(serve: Callable[..., Server], target: Path) -> None:
    server = serve(cut, cut, whole)
    seen: list[int] = []
    download(server.file, target, SHA256, progress=lambda done, total: seen.append(done))
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert seen == sorted(seen)


def test_a_connection_cut_again_and_again_keeps_what_came(serve: Callable[..., Server], target: Path) -> None:
    server = serve(*[cut] * ATTEMPTS, whole)
    with pytest.raises(DownloadError, match=r"after 300,000 of 512,000 bytes\. Download again to go on from there"):
        download(server.file, target, SHA256)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:300_000]
    download(server.file, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_a_cut_is_noticed_without_a_length_from_the_server(serve: Callable[..., Server], target: Path) -> None:
    download(serve(without_length).file, target, SHA256)
    assert target.read_bytes() == CONTENT
    target.unlink()
    with pytest.raises(DownloadError, match="ended after 100,000 of 512,000 bytes"):
        download(serve(without_length_cut).file, target, SHA256, size=len(CONTENT))


def test_a_stalled_server_is_left_after_the_patience_given(serve: Callable[..., Server], target: Path) -> None:
    with pytest.raises(DownloadError, match=r"sent nothing for 0\.3 s after [\d,]+ of 512,000 bytes"):
        download(serve(stall).file, target, SHA256, size=len(CONTENT), timeout_s=0.3)
    assert CONTENT.startswith(part_of(target).read_bytes())  # and what came is kept


def test_a_damaged_file_is_refused_and_not_kept(serve: Callable[..., Server], target: Path) -> None:
    with pytest.raises(DownloadError, match="512,000 bytes whose checksum is not the promised one"):
        download(serve(corrupt).file, target, SHA256)
    assert list(target.parent.iterdir()) == []


def test_a_damaged_part_is_thrown_away_and_fetched_once_more(serve: Callable[..., Server], target: Path) -> None:
    server = serve(whole)
    target.parent.mkdir()
    part_of(target).write_bytes(b"not the beginning")
    download(server.file, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=17-", None]


def test_a_part_that_is_already_whole_needs_no_server(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    download("http://127.0.0.1:9/file.txt", target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_again(serve: Callable[..., Server], target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT + b"more")
    download(serve(whole).file, target, SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [ignore_range, wrong_range])
def test_a_server_that_does_not_know_range_sends_all_again(
    serve: Callable[..., Server], target: Path, answer: Answer
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:100])
    seen: list[tuple[int, int | None]] = []
    download(serve(answer, whole).file, target, SHA256, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_more_than_was_promised_is_refused_early(serve: Callable[..., Server], target: Path) -> None:
    with pytest.raises(DownloadError, match="more than the 512,000 bytes"):
        download(serve(longer).file, target, SHA256, size=len(CONTENT))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "sentence"), [(404, r"does not exist \(404\)"), (500, "status 500"), (403, "status 403")]
)
def test_a_refusal_is_told_and_keeps_what_came_before(
    serve: Callable[..., Server], target: Path, code: int, sentence: str
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:100])
    server = serve(status(code))
    with pytest.raises(DownloadError, match=sentence):
        download(server.file, target, SHA256)
    assert len(server.ranges) == 1
    assert part_of(target).read_bytes() == CONTENT[:100]


def test_a_refusal_leaves_nothing_behind(serve: Callable[..., Server], target: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(serve(status(404)).file, target, SHA256)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:9/file.txt", "cannot be reached"),
        ("gopher://example.org/file.txt", "not an address"),
        ("file.txt", "not an address"),
        ("http://host:port/file.txt", "not an address"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(url: str, sentence: str, target: Path) -> None:
    with pytest.raises(DownloadError, match=sentence):
        download(url, target, SHA256, timeout_s=2)


def test_a_full_disk_is_told(serve: Callable[..., Server], target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="could not be written: the disk is full"):
        download(serve(whole).file, target, SHA256)
    assert not target.exists()


def test_a_folder_that_cannot_be_written_is_told(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a file where a folder should be")
    with pytest.raises(DownloadError, match="could not be written"):
        download(serve(whole).file, tmp_path / "texts" / "file.txt", SHA256)


def test_two_downloads_of_one_file_do_not_mix(serve: Callable[..., Server], target: Path) -> None:
    target.parent.mkdir()
    with open(part_of(target), "ab") as other:
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="being downloaded by another process"):
            download(serve(whole).file, target, SHA256)
    download(serve(whole).file, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_an_interrupted_download_goes_on_next_time(serve: Callable[..., Server], target: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 200_000:
            raise KeyboardInterrupt

    server = serve(whole)
    with pytest.raises(KeyboardInterrupt):
        download(server.file, target, SHA256, progress=interrupt)
    kept = part_of(target).stat().st_size
    assert kept > 200_000
    download(server.file, target, SHA256)
    assert server.ranges == [None, f"bytes={kept}-"]
    assert target.read_bytes() == CONTENT


def test_the_verdict_is_fetched_from_the_base_url_that_is_set(
    serve: Callable[..., Server], lab_home: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = (test_data / "the-verdict.txt").read_bytes()
    paths: list[str] = []

    def answer(request: Handler) -> None:
        paths.append(request.path)
        request.wfile.write(request.promise(verdict))

    monkeypatch.setenv("LAB_TEXT_BASE_URL", f"{serve(answer).url}/some/folder/")
    corpus = download_corpus("verdict")
    assert paths == ["/some/folder/the-verdict.txt"]
    assert corpus.is_here
    assert read_text(find_corpus("verdict")).encode("utf-8") == verdict
    download_corpus("verdict")
    assert len(paths) == 1


def test_another_file_in_the_verdicts_place_is_refused(
    serve: Callable[..., Server], lab_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TEXT_BASE_URL", serve(whole).url)
    with pytest.raises(DownloadError, match="sent more than the 20,479 bytes"):
        download_corpus("verdict")
    assert not find_corpus("verdict").is_here
