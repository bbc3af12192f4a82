"""Runs from elsewhere: TensorBoard's files, CSV, folders and bare segments of another machine."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from lab.config import PRESETS
from lab.errors import RunError, StoreError
from lab.rundir import RunDir, create_run, find_run
from lab.store import Database, SegmentRecorder, connect_readonly, latest, list_runs, run_row, series, sweep
from lab.store.imports import import_path
from lab.store.segment_files import list_segments
from lab.store.tensorboard import crc32c, read_events
from tests.store.conftest import losses, recorded_steps

EXAMPLE = Path(__file__).parent / "tensorboard" / "events.out.tfevents.1700000000.example"


def test_checksums_are_those_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c(b"\0" * 32) == 0x8A9136AA  # RFC 3720, B.4


def test_an_event_file_reads_as_tensorboard_reads_it() -> None:
    # expected.json was written by tensorboard's own EventAccumulator: old and new style values, a NaN, a far step.
    expected = json.loads((EXAMPLE.parent / "expected.json").read_text())
    found: dict[str, list] = {}
    events = read_events(EXAMPLE)
    for one in events.scalars:
        value = None if math.isnan(one.value) else one.value
        found.setdefault(one.name, []).append([one.step, one.wall_time, value])
    assert found == expected
    assert events.skipped == 1, "the text is no curve"
    assert events.problem == ""


def test_tensorboard_files_become_a_run_with_its_curves(lab_home: Path) -> None:
    (imported,) = import_path(EXAMPLE)
    assert imported.is_recorded
    assert "1 values that are no curves" in imported.notice
    with connect_readonly() as record:
        assert run_row(record, imported.run_id)["kind"] == "imported"
        assert latest(record, imported.run_id)["accuracy"] == (38.5, 38)
        curve = series(record, imported.run_id, "Loss/train", x="elapsed_s")
        assert list(curve["x"][:3]) == [0.0, 0.5, 1.0]
    with pytest.raises(RunError, match="here already"):
        import_path(EXAMPLE)


def test_each_folder_of_event_files_is_a_run(lab_home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    logs = tmp_path_factory.mktemp("logs")
    for number, name in enumerate(("one", "two")):
        (logs / name).mkdir()
        content = EXAMPLE.read_bytes()
        (logs / name / EXAMPLE.name).write_bytes(content[: len(content) - number * 3])
    found = import_path(logs)
    assert [find_run(one.run_id).info()["name"] for one in found] == ["one", "two"]
    assert "cut off" in found[1].notice


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_event_file_yields_what_stands_before_or_is_refused(tmp_path: Path, seed: int) -> None:
    luck, content = random.Random(seed), bytearray(EXAMPLE.read_bytes())
    content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    (tmp_path / "tfevents").write_bytes(content)
    whole = [str(one) for one in read_events(EXAMPLE).scalars]
    try:
        found = read_events(tmp_path / "tfevents")
    except StoreError:
        return
    assert found.problem
    assert [str(one) for one in found.scalars] == whole[: len(found.scalars)]


LONG = "step,name,value,elapsed_s\n0,val/loss,3.5,0\n10,val/loss,2.5,1.5\n10,train/loss,nan,1.5\n"
WIDE = "\ufeffstep, val/loss ,train/loss\n0,3.5,\n10,2.5,NaN\n"


@pytest.mark.parametrize("text", [LONG, WIDE])
def test_a_table_becomes_a_run_long_or_wide(lab_home: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    (imported,) = import_path(path, name="mine", run_id="mine")
    with connect_readonly() as record:
        assert latest(record, "mine")["val/loss"] == (2.5, 10)
        assert math.isnan(latest(record, "mine")["train/loss"].value)
        assert list_runs(record)["name"][0] == "mine"
    assert imported.rows == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", "“step”"),
        ("step,x\n1,abc\n", "line 2: 'abc' is not a number"),
        ("step,x\n1.5,2\n", "'1.5' is not a whole number"),
        ("step,name,value\n1,x\n", "line 2"),
        ("step,x\n", "no values"),
        ("", "“step”"),
    ],
)
def test_a_table_that_cannot_be_read_names_the_line(lab_home: Path, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(StoreError, match=sentence):
        import_path(path)
    assert not list((lab_home / "outputs").glob("*imported*"))


@pytest.fixture
def other_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A finished run with ten steps in segments, in a home that nobody owns."""
    with monkeypatch.context() as patch:
        patch.setenv("LAB_HOME", str(tmp_path_factory.mktemp("other")))
        run = create_run(PRESETS["pocket"], name="from afar")
        recorder = SegmentRecorder(run)
        recorder.rows("metrics", losses(range(10)))
        recorder.rows("runs", [{"status": "finished"}])
        recorder.close()
        run.update_info(status="finished", host="elsewhere")
    return run


def test_a_run_folder_of_another_machine_is_taken_in(database: Database, other_machine: RunDir) -> None:
    (imported,) = import_path(other_machine.path)
    assert recorded_steps(database, imported.run_id) == list(range(10))
    row = run_row(database, imported.run_id)
    assert (row["name"], row["status"], row["host"]) == ("from afar", "finished", "elsewhere")
    assert len(list_segments(other_machine.segments)) == 2, "the source is left as it is"


def test_a_folder_that_is_copied_again_brings_only_what_is_new(database: Database, other_machine: RunDir) -> None:
    import_path(other_machine.path)
    recorder = SegmentRecorder(other_machine)
    recorder.rows("metrics", losses(range(10, 15)))
    recorder.close()
    (again,) = import_path(other_machine.path)
    assert "only what is new" in again.notice
    assert recorded_steps(database, other_machine.run_id) == list(range(15))
    import_path(other_machine.segments)
    assert recorded_steps(database, other_machine.run_id) == list(range(15))


def test_bare_segments_become_a_run_of_the_id_they_name(database: Database, other_machine: RunDir) -> None:
    bare = shutil.copytree(other_machine.segments, other_machine.path.parent / "bare")
    (imported,) = import_path(Path(bare))
    assert imported.run_id == other_machine.run_id
    assert recorded_steps(database, imported.run_id) == list(range(10))


def test_a_run_that_is_trained_here_is_not_taken_from_elsewhere(database: Database, other_machine: RunDir) -> None:
    import_path(other_machine.path)
    with find_run(other_machine.run_id).lock(), pytest.raises(RunError, match="being trained here"):
        import_path(other_machine.path)


def test_a_damaged_segment_among_others_is_put_aside(database: Database, other_machine: RunDir) -> None:
    recorder = SegmentRecorder(other_machine)
    recorder.rows("metrics", losses(range(10, 15)))
    recorder.close()
    path = list_segments(other_machine.segments)[-1].path
    path.write_bytes(path.read_bytes()[:-5])
    (imported,) = import_path(other_machine.path)
    assert recorded_steps(database, imported.run_id) == list(range(10))
    assert sweep(database) == []


def test_anything_else_is_one_sentence(lab_home: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.bin").write_bytes(b"abc")
    for name in ("nothing", "folder", "file.bin"):
        with pytest.raises(StoreError):
            import_path(tmp_path / name)
