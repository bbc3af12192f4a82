"""A data set of the hub, from a hub on this machine."""

import hashlib
import io
import json
from collections.abc import Callable

import pyarrow as pa
import pytest
from pyarrow import parquet

from lab.errors import DataError, DownloadError
from lab.finetuning.hub_data import plan, pull
from lab.finetuning.rows import dataset_names, read_dataset
from tests.loopback import Handler, Server

COMMIT = "c0ffee" * 6 + "c0ff"


def shard(*numbers: int) -> bytes:
    table = pa.table({"prompt": [f"Question {n}?" for n in numbers], "completion": [f"Answer {n}." for n in numbers]})
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


class Hub:
    """Serves one data set."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    def __call__(self, request: Handler) -> None:
        about = "/api/datasets/someone/rows"
        start = f"/datasets/someone/rows/resolve/{COMMIT}/"
        if request.path == f"{about}/revision/main":
            self.answer(request, {"sha": COMMIT})
        elif request.path == f"{about}/tree/{COMMIT}?recursive=true":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": git_name(content)}
                for path, content in self.files.items()
            ]
            self.answer(request, [{"type": "directory", "path": "data"}, *entries])
        elif request.path.startswith(start):
            request.wfile.write(request.promise(self.files[request.path.removeprefix(start)]))
        else:
            request.head(404, Content_Length=0)

    @staticmethod
    def answer(request: Handler, document: object) -> None:
        content = json.dumps(document).encode()
        request.head(200, Content_Length=len(content), Content_Type="application/json")
        request.wfile.write(content)


def git_name(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture
def hub(serve: Callable[..., Server], lab_home: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def of(**files: bytes) -> None:
        named = {path.replace("__", "/"): content for path, content in files.items()}
        monkeypatch.setenv("LAB_HUB_URL", serve(Hub(named)).url)

    return of


def test_the_training_rows_are_fetched_and_counted_on_through_their_files(hub: Callable[..., None]) -> None:
    hub(**{"data__train-0.parquet": shard(1, 2), "data__train-1.parquet": shard(3), "data__test-0.parquet": shard(9),
           "README.md": b"about", "dataset_infos.json": b"{}"})  # fmt: skip
    pull("someone/rows")
    found = read_dataset("someone/rows")
    assert [(row.number, row.values["prompt"]) for row in found] == [
        (1, "Question 1?"), (2, "Question 2?"), (3, "Question 3?")
    ]  # fmt: skip
    assert "someone/rows" in dataset_names()


def test_a_file_that_leads_out_of_the_folder_is_never_asked_for(hub: Callable[..., None]) -> None:
    hub(**{"..__..__evil.jsonl": b"{}", ".hidden.jsonl": b"{}", "train.csv": b"prompt,completion\na,b\n"})
    assert [file.path for file in plan("someone/rows")[1]] == ["train.csv"]


def test_a_data_set_without_files_that_can_be_read_is_refused(hub: Callable[..., None]) -> None:
    hub(**{"rows.py": b"code", "README.md": b"about"})
    with pytest.raises(DataError, match=r"has no \.jsonl, \.json, \.csv, \.parquet file on the hub"):
        pull("someone/rows")


def test_a_name_that_was_not_pulled_says_how_to_pull_it(hub: Callable[..., None]) -> None:
    hub()
    with pytest.raises(DataError, match="lab datasets pull someone/other"):
        read_dataset("someone/other")
    with pytest.raises(DownloadError, match="does not exist"):
        pull("someone/other")
    with pytest.raises(DataError, match="write OWNER/NAME"):
        pull("rows")
