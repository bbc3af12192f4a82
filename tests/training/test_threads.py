"""How many threads a training computes with is its own affair."""

import threading
from collections.abc import Iterator

import pytest
import torch

from lab.training.threads import use_threads
from tests.training.helpers import Trained, small, train
from tests.training.noise import beside


@pytest.fixture(autouse=True)
def _threads_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    use_threads(before)


def in_a_thread(work: object) -> None:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    thread.join()


def test_a_fresh_thread_gets_the_number_it_asks_for_and_keeps_it() -> None:
    """torch's own setter, called first, is overruled at the thread's first look by whoever set a number last."""
    seen: list[int] = []
    asked, other = threading.Event(), threading.Event()

    def work() -> None:
        use_threads(2)
        asked.set()
        other.wait(60)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    asked.wait(60)
    torch.set_num_threads(1)
    other.set()
    thread.join()
    assert seen == [2]


def test_other_threads_keep_theirs() -> None:
    use_threads(1)
    in_a_thread(lambda: use_threads(2))
    assert torch.get_num_threads() == 1


def test_threads_set_elsewhere_in_the_process_change_no_bit_of_a_training() -> None:
    """In threads of their own, as the engine trains; matrices wide enough that two threads share a product, and sum
    it up in another order than one."""
    config = small(max_steps=20, emb_dim=96, batch_size=8, context_length=32, threads=2)
    runs: list[Trained] = []
    in_a_thread(lambda: runs.append(train(config)))
    with beside(lambda: torch.set_num_threads(1)):
        in_a_thread(lambda: runs.append(train(config)))
    quiet, disturbed = runs
    assert disturbed.rows.learned() == quiet.rows.learned()
