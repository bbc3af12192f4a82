"""A file is the old one or the new one, never half of one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.files import read_json, sha256_of, write_atomically, write_bytes, write_json


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"text": "Größe 猫", "number": 0.1 + 0.2, "list": [1, None, True]}
    write_json(tmp_path / "new folder" / "a.json", value)
    assert read_json(tmp_path / "new folder" / "a.json") == value


def test_number_that_is_none_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_failing_halfway_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(LabError, match=r"a\.txt could not be written: No space left on device\. Free some disk space"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_exceptions_pass_through_and_leave_no_rubbish_either(tmp_path: Path) -> None:
    def broken(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise KeyError("bug")

    with pytest.raises(KeyError):
        write_atomically(tmp_path / "a.txt", broken)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"could not be written: .*check the folder"):
        write_bytes(tmp_path / "file" / "a.txt", b"")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "does not exist"), (b"{", "not readable JSON"), (b"\xff\xfe", "not readable JSON")],
)
def test_json_that_cannot_be_read_is_one_sentence(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabError, match=sentence):
        read_json(path)


def test_folder_in_place_of_a_json_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_writer_killed_at_any_moment_leaves_one_whole_value(tmp_path: Path) -> None:
    """A process that does nothing but replace a file of a megabyte is killed five times."""
    path = tmp_path / "a.json"
    write_json(path, {"n": 0, "filler": "x" * 1_000_000})
    code = (
        "import sys; from pathlib import Path; from lab.files import write_json\n"
        "for n in range(10**6):\n"
        "    write_json(Path(sys.argv[1]), {'n': n, 'filler': 'x' * 1_000_000}); print(n, flush=True)"
    )
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = [int(process.stdout.readline()) for _ in range(3)][-1]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        value = json.loads(path.read_text())
        assert value["n"] >= last
        assert len(value["filler"]) == 1_000_000
