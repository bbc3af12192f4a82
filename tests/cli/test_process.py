"""`lab` as a process: what it loads, how it takes signals, and how it gets on with the app."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab.cli.parser import build_parser
from lab.config import PRESETS
from lab.control import Control
from lab.models.checkpoints import list_checkpoints
from lab.rundir import RunDir, create_run, find_run
from lab.store import Database, serve_snapshots

LONG = (
    "train --preset pocket --corpus tiny --max-steps 100000 --eval-every 50000 --sample-tokens 0 --eval-tokens 100 "
    "--threads 1 --precision fp32 --name long --json"
).split()


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lab", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(line: str, process: subprocess.Popen[str]) -> None:
    """Read the process' standard error up to a line with this text."""
    assert process.stderr is not None
    for said in process.stderr:
        if line in said:
            return
    raise AssertionError(f"the process ended without saying {line!r}")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["runs", "list"], ["status"], ["corpora", "list"]])
def test_what_needs_no_model_loads_no_torch(lab_home: Path, words: list[str]):
    watch = (
        "import sys; from lab.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as left: code = left.code\n"
        "heavy = {'torch', 'transformers', 'streamlit'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    ended = subprocess.run([sys.executable, "-c", watch, *words], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_help_loads_no_tables_either():
    watch = "import sys, lab.cli.parser as p; p.build_parser(); sys.exit({'pandas', 'duckdb'} & set(sys.modules) or 0)"
    assert subprocess.run([sys.executable, "-c", watch]).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        *(name.split() for name in "train resume fork status pause stop save generate sql doctor runs corpora".split()),
        *(["runs", name] for name in ("list", "show")),
        *(["corpora", name] for name in ("list", "add", "download", "stats")),
    ],
    ids=" ".join,
)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        build_parser().parse_args([*words, "--help"])
    assert left.value.code == 0
    assert f"usage: lab {' '.join(words)}" in capsys.readouterr().out


def stopped_by(number: signal.Signals, process: subprocess.Popen[str]) -> dict:
    """Send the signal; the document that the process leaves with."""
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_a_training_cleanly(lab_home: Path, number: signal.Signals):
    process = start(*LONG)
    wait_for("step 0 of 100,000", process)
    document = stopped_by(number, process)
    run = find_run("long")
    assert document["status"] == run.info()["status"] == "stopped"
    (final,) = list_checkpoints(run)
    assert (final.kind, final.step) == ("final", document["steps"])


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(lab_home: Path):
    process = start(*LONG)
    wait_for("step 0 of 100,000", process)
    steps = stopped_by(signal.SIGINT, process)["steps"]
    process = start("resume", "long", "--json")
    wait_for(f"from step {steps:,}", process)
    assert stopped_by(signal.SIGINT, process)["steps"] > steps


@pytest.mark.slow
def test_another_terminal_pauses_resumes_saves_and_stops_a_run(lab_home: Path):
    process = start(*LONG)
    wait_for("step 0 of 100,000", process)

    def tell(word: str) -> dict:
        answer = subprocess.run([sys.executable, "-m", "lab", word, "long", "--json"], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    assert tell("save")["asked"] == "save"
    wait_for("as saved", process)
    assert tell("pause")["asked"] == "pause"
    wait_for("Paused at step", process)
    assert tell("resume")["asked"] == "run"
    wait_for("Went on from step", process)
    assert tell("stop")["asked"] == "stop"
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "nobody interrupted it: it did what it was asked to"
    assert json.loads(out)["status"] == "stopped"
    assert {info.kind for info in list_checkpoints(find_run("long"))} == {"saved", "final"}


@pytest.fixture
def open_app(lab_home: Path):
    """The record, owned by this process and served to readers, as the app does."""
    with Database.open() as database:
        done = threading.Event()

        def serve() -> None:
            while not done.wait(0.05):
                serve_snapshots(database)

        server = threading.Thread(target=serve)
        server.start()
        yield database
        done.set()
        server.join()


def test_runs_are_listed_and_asked_about_while_the_app_is_open(open_app: Database):
    run: RunDir = create_run(PRESETS["pocket"], name="of the app")
    open_app.add_run({**run.info(), "status": "finished"} | {"kind": "pretrain"})
    for words in (["runs", "list"], ["sql", "SELECT name FROM runs"]):
        answer = subprocess.run([sys.executable, "-m", "lab", *words, "--json"], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert [row["name"] for row in json.loads(answer.stdout)] == ["of the app"]


def test_a_reader_that_has_seen_enough_is_no_error(lab_home: Path):
    """`lab corpora list | head -0`: the pipe is closed before anything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "lab", "corpora", "list"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
def test_a_killed_run_is_listed_as_interrupted_and_can_go_on(lab_home: Path):
    words = [*LONG, "--eval-every", "10"]
    process = start(*words)
    wait_for("step 20 of", process)
    process.kill()
    process.communicate()
    listed = subprocess.run([sys.executable, "-m", "lab", "runs", "list", "--json"], capture_output=True, text=True)
    assert [row["status"] for row in json.loads(listed.stdout)] == ["interrupted"]
    process = start("resume", "long", "--json")
    wait_for("Resumed from step", process)
    assert stopped_by(signal.SIGINT, process)["steps"] >= 10


def test_the_first_signal_asks_and_the_second_breaks_off(lab_home: Path):
    from lab.cli.train import _stopping_on_signals

    run = create_run(PRESETS["pocket"])
    with _stopping_on_signals(run) as came:
        os.kill(os.getpid(), signal.SIGINT)
        assert (came, Control(run.control_path).want) == ([signal.SIGINT], "stop")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
