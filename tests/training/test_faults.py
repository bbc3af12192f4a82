"""Disks that are full, folders that cannot be written, exceptions: one sentence each, and nothing half-written."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.models.checkpoints import checkpoints_in, is_whole
from lab.rundir import create_run
from lab.store import Database, SegmentRecorder, adopt, ingest, run_row
from lab.training.run import train_run
from lab.training.trainer import Trainer
from tests.training.helpers import go_on, small, train


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A LAB_HOME on a disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs a small disk: mounting a tmpfs takes root's rights")
    monkeypatch.setenv("LAB_HOME", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_during_a_checkpoint_fails_the_run_with_one_sentence_and_the_older_state_goes_on_later(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state of this model takes 1.3 MB; 0.2 are left."""
    config = small(max_steps=6, eval_every=2, emb_dim=64, drop_rate=0.1)
    run = create_run(config)
    after_step = Trainer._after_step

    def fill_the_disk(self: Trainer) -> None:
        after_step(self)
        self.keeper.collect(wait=True)
        if self.progress.step == 3:
            free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
            (small_disk / "ballast").write_bytes(bytes(free - 200_000))

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_after_step", fill_the_disk)
        recorder = SegmentRecorder(run)
        outcome = train_run(run, recorder)
    assert outcome.status == run.info()["status"] == "failed"
    assert "could not be written" in (outcome.error or "")
    assert "No space left on device" in (outcome.error or "")
    assert "\n" not in (outcome.error or "\n")
    assert [(info.step, is_whole(info)) for info in checkpoints_in(run.resume)] == [(2, True)]
    assert not list(run.path.rglob("*.tmp"))

    (small_disk / "ballast").unlink()
    assert train_run(run, SegmentRecorder(run)).status == "finished"
    assert [info.step for info in checkpoints_in(run.checkpoints)] == [6]


def test_full_disk_for_the_rows_themselves_is_one_sentence(small_disk: Path) -> None:
    run = create_run(small(max_steps=6))
    recorder = SegmentRecorder(run)
    recorder.rows("events", [{"step": 0, "level": "info", "kind": "started", "message": "x"}])
    recorder.flush()
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free))
    with pytest.raises(LabError, match=r"could not be written.*No space left on device"):
        train_run(run, recorder)
    (small_disk / "ballast").unlink()
    assert train_run(run, SegmentRecorder(run)).status == "finished"


def test_failed_final_checkpoint_fails_the_run_and_keeps_the_rolling_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    def full_for_final(tensors: dict, path: Path, metadata: dict) -> None:
        if "checkpoint-6" in str(path):
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", full_for_final)
        trained = train(small(max_steps=6, eval_every=2))
    assert trained.outcome.status == "failed"
    assert "No space left on device" in (trained.outcome.error or "")
    assert [is_whole(info) for info in checkpoints_in(trained.run.resume)] == [True]
    resumed = go_on(trained.run, trained.rows)
    assert resumed.outcome.status == "finished"
    assert resumed.rows.learned() == train(small(max_steps=6, eval_every=2)).rows.learned()


def test_folder_that_cannot_be_written_is_one_sentence_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    with pytest.raises(LabError, match=r"cannot be made: Not a directory; .*set LAB_HOME to a folder"):
        create_run(small())


def test_any_exception_is_a_failed_run_with_a_sentence_and_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero\nwith a second line")

    monkeypatch.setattr("lab.training.pretraining.PretrainTask.loss_sum", broken)
    trained = train(small())
    assert trained.outcome.error == (
        "Training broke off with ZeroDivisionError: division by zero The traceback is in the run's folder."
    )
    assert "in broken" in trained.run.traceback_path.read_text()
    assert trained.rows.messages("failed") == [trained.outcome.error]
    assert trained.rows.tables["runs"][-1]["status"] == trained.run.info()["status"] == "failed"
    assert not trained.run.is_alive()


def test_corpus_that_is_gone_is_one_sentence(lab_home: Path) -> None:
    text = lab_home / "mine.txt"
    text.write_text("The cat sat on the mat. " * 60)
    config = small(corpus=str(text))
    text.unlink()
    trained = train(config)
    assert trained.outcome.status == "failed"
    assert "There is no corpus" in (trained.outcome.error or "")


def test_text_shorter_than_a_window_is_one_sentence_with_the_arithmetic() -> None:
    trained = train(small(context_length=4096))
    assert trained.outcome.status == "failed"
    assert "4,096 + 1 = 4,097" in (trained.outcome.error or "")


def test_damaged_memory_of_the_machine_is_measured_again(lab_home: Path) -> None:
    path = lab_home / "outputs" / ".cache" / "machine.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert train(small()).outcome.status == "finished"


def test_record_of_a_failed_run_says_why(lab_home: Path) -> None:
    run = create_run(small(context_length=4096))
    recorder = SegmentRecorder(run)
    outcome = train_run(run, recorder)
    with Database.open() as database:
        adopt(database, run)
        ingest(database, run)
        row = run_row(database, run.run_id)
    assert (row["status"], row["error"]) == ("failed", outcome.error)
    assert row["ended_at"] is not None
