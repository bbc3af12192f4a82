"""A run directory describes itself, and its lock tells who is alive."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lab import rundir
from lab.config import PRESETS
from lab.errors import LabError, RunError
from lab.rundir import RunDir, all_runs, create_run, find_run

CONFIG = PRESETS["pocket"]


@pytest.fixture
def run(lab_home: Path) -> RunDir:
    return create_run(CONFIG, name="first try")


def holder(run: RunDir) -> subprocess.Popen[str]:
    """A process that holds the run's lock."""
    code = (
        "import sys, time; from pathlib import Path; from lab.rundir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_new_run_says_who_made_it_and_what_it_is(run: RunDir) -> None:
    info = run.info()
    assert (info["name"], info["kind"], info["status"]) == ("first try", "pretrain", "queued")
    assert (info["pid"], info["host"]) == (os.getpid(), socket.gethostname())
    assert run.config() == CONFIG
    assert run.path.parent == run.path.parent.parent / "outputs"


def test_child_knows_its_parent_and_step(run: RunDir) -> None:
    info = create_run(CONFIG, parent=(run.run_id, 40)).info()
    assert (info["parent_run_id"], info["parent_step"]) == (run.run_id, 40)


def test_nameless_run_is_called_by_its_id(lab_home: Path) -> None:
    run = create_run(CONFIG)
    assert run.info()["name"] == run.run_id


def test_ids_sort_by_time_and_two_runs_of_one_second_get_two(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["20261120-053100-aaaa", "20261120-053100-aaaa", "20261120-053100-bbbb"])
    monkeypatch.setattr(rundir, "new_run_id", lambda: next(drawn))
    assert [create_run(CONFIG).run_id for _ in range(2)] == ["20261120-053100-aaaa", "20261120-053100-bbbb"]
    assert [run.run_id for run in all_runs()] == ["20261120-053100-aaaa", "20261120-053100-bbbb"]


def test_outputs_that_cannot_be_written_are_one_sentence(lab_home: Path) -> None:
    (lab_home / "outputs").write_text("")
    with pytest.raises(LabError, match="cannot be made: Not a directory"):
        create_run(CONFIG)


def test_run_is_found_by_id_by_the_beginning_of_one_and_by_name(run: RunDir) -> None:
    for text in (run.run_id, run.run_id[:-2], "first try"):
        assert find_run(text) == run


def test_what_fits_no_run_or_several_is_one_sentence(run: RunDir) -> None:
    other = create_run(CONFIG, name="first try")
    with pytest.raises(RunError, match="There is no run 'second try'"):
        find_run("second try")
    with pytest.raises(RunError, match=f"fits 2 runs \\({run.run_id}, {other.run_id}\\)|fits 2 runs"):
        find_run("first try")
    with pytest.raises(RunError, match="fits 2 runs"):
        find_run(run.run_id[:4])


@pytest.mark.parametrize("text", ["../etc", "a/b", "", ".cache", "a\\b"])
def test_what_is_no_name_is_refused(text: str, lab_home: Path) -> None:
    with pytest.raises(RunError, match="is not a run id or name"):
        find_run(text)


def test_damaged_run_makes_no_other_run_hard_to_find(run: RunDir) -> None:
    damaged = create_run(CONFIG, name="second")
    damaged.info_path.write_text("{")
    assert find_run("first try") == run
    assert find_run(damaged.run_id) == damaged


def test_folders_without_a_run_are_not_runs(run: RunDir) -> None:
    (run.path.parent / ".cache").mkdir()
    (run.path.parent / "notes").mkdir()
    assert all_runs() == [run]


def test_update_changes_some_entries_and_keeps_the_others(run: RunDir) -> None:
    run.update_info(status="running")
    assert (run.info()["status"], run.info()["name"]) == ("running", "first try")


def test_new_run_is_not_alive(run: RunDir) -> None:
    assert not run.is_alive()


def test_run_is_alive_while_a_process_holds_its_lock_and_dead_when_that_is_killed(run: RunDir) -> None:
    process = holder(run)
    assert run.is_alive()
    with pytest.raises(RunError, match="is being trained by another process"), run.lock():
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not run.is_alive()
    with run.lock():
        assert run.is_alive()
    assert not run.is_alive()


def test_two_that_look_at_once_do_not_take_each_other_for_the_trainer(run: RunDir) -> None:
    with run.lock():
        pass
    seen: list[bool] = []

    def look() -> None:
        seen.extend(run.is_alive() for _ in range(300))

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert seen == [False] * 1200


def test_looking_does_not_keep_a_trainer_out(run: RunDir) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            run.is_alive()

    with run.lock():
        pass
    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(20):
            with run.lock():
                assert run.is_alive()
    finally:
        done.set()
        looker.join()


def test_tidying_removes_unfinished_files_and_nothing_else(run: RunDir) -> None:
    run.segments.mkdir()
    run.resume.mkdir()
    unfinished = (".run.json.0123abcd.tmp", "segments/.x.parquet.0123abcd.tmp", "resume/.tmpIesrK7")
    for name in unfinished:
        (run.path / name).write_text("half")
    asked = run.path / ".control.json.0123abcd.tmp"  # somebody may be asking right now
    asked.write_text("half")
    run.tidy()
    assert sorted(path.name for path in run.path.rglob("*") if path.is_file()) == [
        asked.name, "config.json", "run.json",
    ]  # fmt: skip
