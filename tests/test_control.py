"""Asking a run: one small file, any number of askers."""

import os
import threading
from pathlib import Path

import pytest

from lab.control import Control, ask


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.json"


def test_without_a_file_a_run_goes_on(path: Path) -> None:
    control = Control(path)
    assert control.want == "run"
    assert not control.stopping
    assert not control.take_save()


def test_asked_for_after_the_start_is_seen_at_the_next_look(path: Path) -> None:
    control = Control(path)
    for want in ("pause", "run", "stop"):
        ask(path, want=want)  # type: ignore[arg-type]
        assert control.want == want
    assert control.stopping


def test_asked_for_before_the_start_is_seen_too(path: Path) -> None:
    ask(path, want="stop")
    assert Control(path).stopping


def test_save_is_taken_once_and_leaves_the_rest_as_it_is(path: Path) -> None:
    control = Control(path)
    ask(path, want="pause")
    ask(path, save=True)
    assert [control.take_save(), control.take_save()] == [True, False]
    assert control.want == "pause"


def test_two_presses_between_two_looks_are_one_checkpoint(path: Path) -> None:
    control = Control(path)
    ask(path, save=True)
    ask(path, save=True)
    assert [control.take_save(), control.take_save()] == [True, False]


def test_save_from_an_earlier_life_is_over(path: Path) -> None:
    ask(path, save=True)
    assert not Control(path).take_save()


def test_no_request_is_lost_when_many_ask_at_once(path: Path) -> None:
    """A stop between forty saves: read, change and write is one thing."""
    control = Control(path)
    askers = [threading.Thread(target=ask, args=(path,), kwargs={"save": True}) for _ in range(40)]
    askers.insert(20, threading.Thread(target=ask, args=(path,), kwargs={"want": "stop"}))
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert control.stopping
    control.take_save()
    assert control._saves == 40


def test_a_look_without_news_does_not_open_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(path, want="pause")
    control = Control(path)

    def opened(_: Path) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("lab.control.read_json", opened)
    assert control.want == "pause"


def test_file_that_changes_within_one_tick_of_the_clock_is_seen(path: Path) -> None:
    """Each write is a new file: its number differs where its time does not."""
    control = Control(path)
    ask(path, want="pause")
    assert control.want == "pause"
    stamp = path.stat()
    ask(path, want="stop")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert control.want == "stop"
