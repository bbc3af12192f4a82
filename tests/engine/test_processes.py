"""The engine and other processes: killed ones, and ones that train beside it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.engine import Engine
from lab.errors import RunError
from lab.models.checkpoints import checkpoints_in, read_checkpoint
from lab.rundir import all_runs, create_run, find_run
from lab.store import ingest_all
from lab.store.segment_files import list_segments
from tests.engine.helpers import (
    app_here,
    cli_here,
    endless,
    learned,
    recorded_step,
    status_of,
    wait_for_status,
    wait_for_step,
    wait_until,
)
from tests.training.crash import acknowledged, server
from tests.training.helpers import assert_same_tensors, small, train

LONG = {"max_steps": 300, "eval_every": 50, "drop_rate": 0.1, "checkpoint_every": 40, "keep_last": 2}


@pytest.fixture
def processes() -> Iterator[list[Any]]:
    started: list[Any] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def start(processes: list[Any], work: Any, *args: Any) -> Any:
    process = server().Process(target=work, args=args)
    process.start()
    processes.append(process)
    return process


def kill(process: Any) -> None:
    process.kill()
    process.join()
    assert process.exitcode == -9


def test_killed_app_leaves_an_interrupted_run_that_resumes_to_the_same_end_and_a_queue_that_goes_on(
    lab_home: Path, processes: list[Any]
) -> None:
    app = start(processes, app_here, str(lab_home), {"long": LONG, "short": {"max_steps": 3}})
    wait_until(lambda: len(all_runs()) == 2)
    run, queued = find_run("long"), find_run("short").run_id
    wait_until(lambda: len(checkpoints_in(run.checkpoints)) >= 1)
    kill(app)
    assert run.info()["status"] == "running", "nobody could say otherwise"

    engine = Engine.start()
    try:
        wait_for_status(engine, queued, "finished")
        assert status_of(engine, run.run_id) == run.info()["status"] == "interrupted"
        assert 40 <= recorded_step(engine, run.run_id) < 300
        engine.resume(run.run_id)
        wait_for_status(engine, run.run_id, "finished")
        straight = train(small(**LONG))
        assert learned(engine, run.run_id) == sorted(straight.rows.learned())
        final = checkpoints_in(run.checkpoints)[-1]
        assert_same_tensors(read_checkpoint(final)[0], straight.tensors())
    finally:
        engine.shutdown()


def test_second_process_is_told_who_has_the_record(engine: Engine) -> None:
    code = "from lab.engine import Engine\ntry: Engine.start()\nexcept Exception as e: print(type(e).__name__, e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert said.startswith("DatabaseBusy ")
    assert "is in use by process " in said
    assert "close the lab there" in said
    assert said.count("\n") == 1


def test_run_of_another_process_is_seen_live_and_obeys(engine: Engine, lab_home: Path, processes: list[Any]) -> None:
    run = create_run(endless(), name="outside")
    start(processes, cli_here, str(lab_home), run.run_id)
    wait_for_step(engine, run.run_id, 1)
    (other,) = engine.status().others
    assert (other.name, other.status) == ("outside", "running")
    assert engine.status().running is None
    engine.pause(run.run_id)
    wait_for_status(engine, run.run_id, "paused")
    engine.unpause(run.run_id)
    wait_for_status(engine, run.run_id, "running")
    engine.save(run.run_id)
    wait_until(lambda: checkpoints_in(run.checkpoints))
    engine.stop(run.run_id)
    wait_for_status(engine, run.run_id, "stopped")
    wait_until(lambda: not run.is_alive())
    engine.resume(run.run_id)
    wait_for_status(engine, run.run_id, "running")
    running = wait_until(lambda: engine.status().running)
    assert running.run_id == run.run_id
    engine.stop(run.run_id)


def test_killed_run_of_another_process_becomes_interrupted_while_the_app_is_open_and_loses_no_row(
    engine: Engine, lab_home: Path, processes: list[Any]
) -> None:
    run = create_run(small(**LONG))
    process = start(processes, cli_here, str(lab_home), run.run_id)
    wait_for_step(engine, run.run_id, 50)
    kill(process)
    wait_for_status(engine, run.run_id, "interrupted", "finished")
    if status_of(engine, run.run_id) == "interrupted":
        engine.resume(run.run_id)
        wait_for_status(engine, run.run_id, "finished")
    assert learned(engine, run.run_id) == sorted(train(small(**LONG)).rows.learned())


def test_rows_that_a_killed_process_left_come_in_before_the_resume_and_not_after_it(
    engine: Engine, lab_home: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resume takes back what no state stands behind; rows that came in later would stand there twice."""
    held = threading.Event()
    monkeypatch.setattr("lab.engine.ingest_all", lambda database: 0 if held.is_set() else ingest_all(database))
    run = create_run(small(**{**LONG, "max_steps": 2_000, "eval_every": 400, "checkpoint_every": 0}))
    process = start(processes, cli_here, str(lab_home), run.run_id)
    wait_for_step(engine, run.run_id, 1)
    held.set()
    known = recorded_step(engine, run.run_id)
    wait_until(lambda: acknowledged(run.path) > known)
    kill(process)
    wait_for_status(engine, run.run_id, "interrupted")
    engine.resume(run.run_id)
    wait_for_status(engine, run.run_id, "running", "finished")
    held.clear()
    wait_for_step(engine, run.run_id, acknowledged(run.path) + 1)
    engine.stop(run.run_id)
    wait_for_status(engine, run.run_id, "stopped", "finished")
    wait_until(lambda: not list_segments(run.segments))
    rows = [row for row in learned(engine, run.run_id) if row[2] == "train/loss"]
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))


def test_run_that_another_process_trains_cannot_be_resumed_here(
    engine: Engine, lab_home: Path, processes: list[Any]
) -> None:
    run = create_run(endless())
    start(processes, cli_here, str(lab_home), run.run_id)
    wait_for_step(engine, run.run_id, 1)
    with pytest.raises(RunError, match="is running; only"):
        engine.resume(run.run_id)
    engine.stop(run.run_id)
    wait_for_status(engine, run.run_id, "stopped")


def test_queued_run_that_another_process_was_faster_with_stays_that_ones(
    engine: Engine, lab_home: Path, processes: list[Any]
) -> None:
    first, contested = engine.submit(endless()), engine.submit(endless())
    wait_for_step(engine, first)
    start(processes, cli_here, str(lab_home), contested)
    wait_for_step(engine, contested, 1)
    engine.stop(first)
    wait_until(lambda: any("is being trained by another process" in notice for notice in engine.notices))
    assert wait_for_status(engine, contested, "running")
    engine.stop(contested)
    wait_for_status(engine, contested, "stopped")


def test_run_that_a_command_line_has_just_made_is_not_taken_into_the_queue(lab_home: Path) -> None:
    """Between making a run and training it, a process imports torch: seconds in which the app may be started."""
    maker = subprocess.Popen(
        [sys.executable, "-c", "import time; from lab.rundir import create_run; from lab.config import PRESETS; "
         "create_run(PRESETS['pocket']); print('made', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert maker.stdout is not None
    assert maker.stdout.readline() == "made\n"
    (run,) = all_runs()
    engine = Engine.start()
    assert engine.status().queue == []
    assert status_of(engine, run.run_id) == "queued"
    engine.shutdown()
    maker.kill()
    maker.communicate()
    engine = Engine.start()
    assert status_of(engine, run.run_id) == run.info()["status"] == "interrupted", "its maker died; Resume starts it"
    engine.shutdown()


def test_ctrl_c_and_sigterm_end_an_app_with_the_final_checkpoint_written(lab_home: Path) -> None:
    import signal

    code = (
        "import sys, time, signal; from lab.engine import Engine; from tests.engine.helpers import endless\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"  # as Streamlit does
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who starts the tests may have it ignored
        "engine = Engine.start(); engine.submit(endless()); print('up', flush=True)\n"
        "while True: time.sleep(0.1)"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        app = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert app.stdout is not None
        try:
            assert app.stdout.readline() == "up\n"
            run = all_runs()[-1]
            wait_until(lambda run=run: checkpoints_in(run.resume))
            app.send_signal(number)
            app.communicate(timeout=60)
        finally:
            app.kill()
            app.communicate()
        assert run.info()["status"] == "stopped"
        assert [info.kind for info in checkpoints_in(run.checkpoints)] == ["final"]
