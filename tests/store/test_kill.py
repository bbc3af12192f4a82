"""kill -9 at any moment: what was acknowledged is there, once. Acknowledged: flush returned, and the child said so
through a pipe."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.config import PRESETS
from lab.rundir import RunDir, create_run
from lab.store import Database, SegmentRecorder, ingest, run_row, sweep
from lab.store.opening import TORN
from lab.store.segment_files import list_segments
from tests.store.conftest import losses, recorded_steps

ROWS = 20

RECORDER = f"""
import os, sys
from lab.rundir import find_run
from lab.store import Database, DatabaseRecorder, SegmentRecorder
run = find_run(sys.argv[2])
with run.lock():
    if sys.argv[1] == "database":
        database = Database.open()
        recorder = DatabaseRecorder(database, run.run_id)
    else:
        recorder = SegmentRecorder(run)
    recorder.rows("runs", [{{"status": "running"}}])
    step = int(sys.argv[3])
    while True:
        rows = [{{"step": s, "tokens_seen": s, "elapsed_s": 0.0, "name": "a", "value": s / 2}}
                for s in range(step, step + {ROWS})]
        recorder.rows("metrics", rows)
        recorder.flush()
        step += {ROWS}
        os.write(1, b"%d\\n" % step)
"""

INGESTER = """
from lab.rundir import find_run
from lab.store import Database, ingest
import os, sys
database = Database.open()
os.write(1, b"open\\n")
while True:
    ingest(database, find_run(sys.argv[1]))
"""


def _start(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)


def _kill(child: subprocess.Popen) -> list[bytes]:
    """kill -9, and everything the child has said."""
    child.send_signal(signal.SIGKILL)
    said, _ = child.communicate()
    assert child.returncode == -signal.SIGKILL, "the child must not have died of something else"
    return said.split()


def _recorded_once(database: Database, run: RunDir, acknowledged: int) -> int:
    """Check one run's rows after a kill: whole flushes, none twice, none of the acknowledged missing."""
    steps = recorded_steps(database, run.run_id)
    assert steps == list(range(len(steps))), "rows are missing in between, or there twice"
    assert len(steps) >= acknowledged
    assert len(steps) % ROWS == 0, "half a flush is there"
    return len(steps)


@pytest.mark.parametrize("way", ["database", "segments"])
def test_ten_kills_lose_nothing_acknowledged_and_repeat_nothing(lab_home: Path, way: str) -> None:
    luck = random.Random(way)
    run = create_run(PRESETS["pocket"])
    run.update_info(status="running")
    there = 0
    for kill in range(10):
        child = _start(RECORDER, way, run.run_id, str(there))
        assert child.stdout is not None
        first = int(child.stdout.readline())
        time.sleep(luck.uniform(0, 0.15))
        said = _kill(child)
        acknowledged = int(said[-1]) if said else first
        with Database.open() as database:
            assert set(database.notices) <= {TORN}
            sweep(database)
            there = _recorded_once(database, run, acknowledged)
            assert run_row(database, run.run_id)["status"] == "interrupted", f"after kill {kill}"
            assert list_segments(run.segments) == []
    assert there > 10 * ROWS


def test_ten_kills_of_the_process_that_takes_in_segments_lose_and_repeat_nothing(lab_home: Path) -> None:
    luck = random.Random(1)
    run = create_run(PRESETS["pocket"])
    recorder = SegmentRecorder(run)
    written = 0
    for _ in range(10):
        for _ in range(12):
            recorder.rows("metrics", losses(range(written, written + ROWS)))
            recorder.flush()
            written += ROWS
        child = _start(INGESTER, run.run_id)
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        time.sleep(luck.uniform(0, 0.06))
        _kill(child)
    with Database.open() as database:
        ingest(database, run)
        assert _recorded_once(database, run, written) == written


def test_kills_while_the_record_is_made_leave_one_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    luck = random.Random(2)
    code = "import os\nfrom lab.store import Database\nos.write(1, b'go\\n')\nDatabase.open()\nos.write(1, b'made\\n')"
    for number in range(8):
        home = tmp_path / str(number)
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "LAB_HOME": str(home)}
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(luck.uniform(0, 0.12))
        child.kill()
        child.communicate()
        monkeypatch.setenv("LAB_HOME", str(home))
        with Database.open() as database:
            assert database.notices == []
            database.add_run({"run_id": "r"})
