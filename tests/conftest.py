"""Fixtures that every test may use."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback import serve as serve

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the machine with each other


@pytest.fixture
def lab_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LAB_HOME."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def test_data() -> Path:
    """The folder of test data."""
    folder = os.environ.get("LAB_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the folder of test data: set LAB_TEST_DATA")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of smollm2-135m, pulled once by the lab's own puller into a cache that all test runs share."""
    from lab import paths
    from lab.errors import LabError
    from lab.models.pull import plan_pull, pull
    from lab.models.registry import find_model

    with pytest.MonkeyPatch.context() as patch:
        if "LAB_MODEL_CACHE" not in os.environ:
            patch.setenv("LAB_MODEL_CACHE", str(paths.cache() / "models"))
        entry = find_model("smollm2-135m")
        try:
            return entry.folder or pull(plan_pull(entry))
        except LabError as error:
            pytest.skip(f"needs smollm2-135m, which cannot be had here: {error}")


TRIED_AGAIN = ("tests/browser/", "tests/engine/", "tests/training/test_resume.py")
"""Tests of several live processes: on a machine that stands still for seconds at a time one of them may miss its
moment. Each is tried again, up to twice; pytest tells how often that was needed. LAB_TRY_ONCE=1 shows the first try."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(TRIED_AGAIN) and "LAB_TRY_ONCE" not in os.environ:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=2))


@pytest.fixture(autouse=True)
def main_stays_main() -> Iterator[None]:
    """AppTest puts the app in the place of `__main__` and leaves it there. Processes that a later test starts would
    then run the app first, as multiprocessing does with the main module, and its engine would own their record."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """An engine that outlives its test takes in what later tests record, into the wrong record; a forecast takes
    their time."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("engine-", "forecasts"))]
    assert not left, f"the test left threads running ({', '.join(left)}): shut them down"
