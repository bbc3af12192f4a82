"""A run taken elsewhere: the same rows, hash for hash; damage is found before anything is taken in."""

import random
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from lab.config import PRESETS
from lab.errors import RunError, StoreError
from lab.files import write_json
from lab.rundir import RunDir, create_run, find_run
from lab.store import Database, RunSearch, connect_readonly, find_runs, labels, latest, run_row, sweep
from lab.store.archive import export_run, import_archive
from lab.store.archive_file import Archive
from lab.store.importing import NewRun
from lab.store.recorder import DatabaseRecorder
from lab.store.tables import RUN_TABLES
from tests.store.conftest import losses


@pytest.fixture
def run(database: Database, run_dir: RunDir) -> RunDir:
    """A finished run with rows in every table, and a file in place of weights."""
    from lab.store import adopt

    adopt(database, run_dir)
    write_json(run_dir.tokenizer_path, {"kind": "char", "characters": "abc"})
    recorder = DatabaseRecorder(database, run_dir.run_id)
    recorder.rows("runs", [{"status": "running", "n_params": 12, "versions": {"torch": "2.13"}}])
    recorder.rows("metrics", [*losses(range(500)), {"step": 500, "name": "train/loss", "value": float("nan")}])
    recorder.rows("samples", [{"step": 3, "prompt": "“Who", "text": "is\n<b>there</b>?”", "sampling": {"top_k": 3}}])
    recorder.rows("events", [{"step": 3, "kind": "decision", "message": "bf16 in 3 < 5"}])
    recorder.rows("predictions", [{"metric": "val/loss", "predicted": 1.5, "who": "person"}])
    content = np.random.default_rng(0).bytes(50_000)
    run_dir.checkpoints.mkdir()
    path = run_dir.checkpoints / "checkpoint-00000003.safetensors"
    path.write_bytes(content)
    about = {"step": 3, "bytes": len(content), "sha256": "0" * 64, "val_loss": 1.5, "kind": "final"}
    write_json(path.with_suffix(".json"), {**about, "created_at": datetime.now(UTC).isoformat()})
    recorder.rows("checkpoints", [{**about, "path": "checkpoints/checkpoint-00000003.safetensors"}])
    recorder.rows("runs", [{"status": "finished", "ended_at": datetime.now(UTC)}])
    recorder.close()
    run_dir.update_info(status="finished")
    labels.set_tags(database, run_dir.run_id, ["good"])
    labels.set_notebook(database, run_dir.run_id, "# Why")
    return run_dir


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another LAB_HOME; entered by `monkeypatch.setenv`."""
    return tmp_path_factory.mktemp("elsewhere")


def _all_rows(database: Database, run_id: str) -> dict[str, str]:
    with database.cursor() as cursor:
        return {
            table: str(cursor.execute(f"SELECT * FROM {table} WHERE run_id = ? ORDER BY rowid", [run_id]).fetchall())
            for table in RUN_TABLES
        }


def test_an_archive_comes_back_to_the_same_rows_and_exports_to_the_same_bytes(
    database: Database, run: RunDir, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export_run(database, run.run_id, tmp_path / "a.labrun", checkpoints=True)
    before, row = _all_rows(database, run.run_id), run_row(database, run.run_id)
    database.close()
    monkeypatch.setenv("LAB_HOME", str(elsewhere))
    imported = import_archive(tmp_path / "a.labrun")
    assert imported.is_recorded
    with Database.open() as other:
        assert _all_rows(other, run.run_id) == before
        there = run_row(other, run.run_id)
        machine = {"pid", "queue_pos", "summed_at"}
        assert {k: v for k, v in there.items() if k not in machine} == {
            k: v for k, v in row.items() if k not in machine
        }
        again = export_run(other, run.run_id, tmp_path / "b.labrun", checkpoints=True)
    assert again == first, "every member has the same hash"
    here = find_run(run.run_id)
    assert here.config() == PRESETS["pocket"], "lab train --like works"
    assert here.tokenizer_path.read_text() == run.tokenizer_path.read_text()
    name = "checkpoints/checkpoint-00000003.safetensors"
    assert (here.path / name).read_bytes() == (run.path / name).read_bytes()


def test_without_checkpoints_the_weights_stay_behind(database: Database, run: RunDir, tmp_path: Path) -> None:
    members = export_run(database, run.run_id, tmp_path / "a.labrun")
    assert not any(name.startswith("checkpoints/") for name in members)
    assert members["rows/metrics.parquet"].rows == 501


def test_a_run_that_is_here_is_not_imported_over_it_but_under_another_id(
    database: Database, run: RunDir, tmp_path: Path
) -> None:
    export_run(database, run.run_id, tmp_path / "a.labrun")
    with pytest.raises(RunError, match="here already"):
        import_archive(tmp_path / "a.labrun")
    import_archive(tmp_path / "a.labrun", run_id="copy")
    assert len(find_runs(database, RunSearch(text="a run"))) == 2
    assert run_row(database, "copy")["config"] == run_row(database, run.run_id)["config"]
    assert latest(database, "copy").keys() == latest(database, run.run_id).keys()


def test_a_run_whose_folder_was_removed_by_hand_is_not_imported_twice(
    database: Database, run: RunDir, tmp_path: Path
) -> None:
    export_run(database, run.run_id, tmp_path / "a.labrun")
    shutil.rmtree(run.path)
    with pytest.raises(RunError, match="here already"):
        import_archive(tmp_path / "a.labrun")
    labels.delete(database, run.run_id)
    labels.purge(database, run.run_id)
    import_archive(tmp_path / "a.labrun")
    assert run_row(database, run.run_id)["status"] == "finished"


def test_a_live_run_arrives_as_interrupted(database: Database, run: RunDir, tmp_path: Path) -> None:
    database.update_run(run.run_id, status="running")
    export_run(database, run.run_id, tmp_path / "a.labrun")
    import_archive(tmp_path / "a.labrun", run_id="copy")
    sweep(database)
    assert run_row(database, "copy")["status"] == "interrupted"


@pytest.mark.parametrize("seed", range(12))
def test_a_bit_flipped_or_cut_archive_is_refused_and_leaves_nothing(
    database: Database, run: RunDir, tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "a.labrun"
    export_run(database, run.run_id, path, checkpoints=True)
    luck, content = random.Random(seed), bytearray(path.read_bytes())
    if seed % 3 == 0:
        content = content[: luck.randrange(len(content))]
    else:
        content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)
    before = _all_rows(database, run.run_id)
    refused = None
    try:
        import_archive(path, run_id="copy")
    except StoreError as error:
        refused = str(error)
    if refused is None:  # the flipped bit means nothing: a date, a flag of the zip file
        assert str(_all_rows(database, "copy")).replace("copy", run.run_id) == str(before)
    else:
        assert "\n" not in refused
        assert not (run.path.parent / "copy").exists()
    assert not list(run.path.parent.glob(".import-*"))


def test_a_member_that_would_be_written_outside_the_run_is_refused(
    database: Database, run: RunDir, tmp_path: Path
) -> None:
    path = tmp_path / "a.labrun"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil", "x")
        archive.writestr(
            "manifest.json",
            '{"format": "llm-learning-lab run", "version": 1, "run_id": "x", '
            '"members": {"../../evil": {"sha256": "", "bytes": 1}}}',
        )
    with pytest.raises(StoreError, match="outside its run"):
        import_archive(path)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"hello"])
def test_another_file_is_one_sentence(tmp_path: Path, lab_home: Path, content: bytes) -> None:
    path = tmp_path / "a.labrun"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"run archive"):
        Archive(path)


def test_a_crash_in_the_middle_of_an_import_leaves_nothing_that_counts(database: Database, run: RunDir) -> None:
    new = NewRun("copy")
    new.write_info({"run_id": "copy", "name": "x", "status": "finished"})
    sweep(database)  # what lies under a hidden name is not a run
    assert len(find_runs(database)) == 1


def test_an_export_on_a_full_disk_is_one_sentence_and_leaves_no_half_file(
    database: Database, run: RunDir, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(b"x" * ((8 << 20) - (40 << 10)))
    with pytest.raises(StoreError, match="could not be written"):
        export_run(database, run.run_id, small_disk / "a.labrun", checkpoints=True)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_an_export_beside_an_open_app_reads_a_copy(database: Database, run: RunDir, tmp_path: Path) -> None:
    with connect_readonly() as record:
        members = export_run(record, run.run_id, tmp_path / "a.labrun")
    assert members == export_run(database, run.run_id, tmp_path / "b.labrun")


def test_a_run_without_rows_can_be_taken_elsewhere(database: Database, tmp_path: Path) -> None:
    from lab.store import adopt

    empty = create_run(PRESETS["pocket"], name="empty")
    adopt(database, empty)
    export_run(database, empty.run_id, tmp_path / "a.labrun")
    import_archive(tmp_path / "a.labrun", run_id="copy")
    assert run_row(database, "copy")["name"] == "empty"
