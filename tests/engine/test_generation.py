"""Writing text in the background, also from a run that goes on, and without disturbing it."""

import pytest
import torch

from lab.engine import Engine
from lab.errors import RunError
from lab.generations import KEPT, Generation
from lab.models.checkpoints import checkpoints_in
from lab.models.sampling import Sampling
from lab.rundir import find_run
from lab.sessions import open_session
from tests.engine.helpers import endless, learned, wait_for_status, wait_for_step, wait_until
from tests.training.helpers import small, train


def written(engine: Engine, ref: str, prompt: str = "The ", **sampling: object) -> Generation:
    generation_id = engine.writing.begin(ref, prompt, Sampling(**{"max_new_tokens": 8, **sampling}))  # type: ignore[arg-type]
    return wait_until(lambda: (found := engine.writing.get(generation_id)).done and found)


@pytest.fixture
def finished(engine: Engine) -> str:
    run_id = engine.submit(small(max_steps=4, checkpoint_every=2))
    wait_for_status(engine, run_id, "finished")
    return run_id


def test_text_is_that_of_the_models_own_session(engine: Engine, finished: str) -> None:
    text = written(engine, finished, seed=5)
    assert (text.error, text.step, text.done) == (None, 4, True)
    expected = open_session(finished).generate("The ", Sampling(max_new_tokens=8, seed=5))
    assert text.text == "".join(piece.text for piece in expected)
    assert len(text.pieces) == 8


def test_any_checkpoint_can_write(engine: Engine, finished: str) -> None:
    assert written(engine, f"{finished}@2").step == 2


def test_what_cannot_be_written_is_one_sentence(engine: Engine, finished: str) -> None:
    assert "no checkpoint at step 3" in (written(engine, f"{finished}@3").error or "")
    assert "no run" in (written(engine, "nonsense").error or "")
    assert "empty" in (written(engine, finished, "").error or "")
    assert "猫" in (written(engine, finished, "猫").error or "")
    with pytest.raises(RunError, match="no longer kept"):
        engine.writing.get("nonsense")


def test_a_long_text_can_be_stopped(engine: Engine, finished: str) -> None:
    generation_id = engine.writing.begin(finished, "The ", Sampling(max_new_tokens=1_000_000))
    wait_until(lambda: engine.writing.get(generation_id).pieces)
    engine.writing.stop(generation_id)
    text = wait_until(lambda: (found := engine.writing.get(generation_id)).done and found)
    assert 0 < len(text.pieces) < 1_000_000
    assert text.error is None


def test_only_the_newest_texts_are_remembered(engine: Engine, finished: str) -> None:
    first = engine.writing.begin(finished, "The ", Sampling(max_new_tokens=1))
    wait_until(lambda: engine.writing.get(first).done)
    for _ in range(KEPT):
        engine.writing.begin(finished, "The ", Sampling(max_new_tokens=1))
    with pytest.raises(RunError, match="no longer kept"):
        engine.writing.get(first)


def test_a_run_that_goes_on_writes_from_its_newest_state_and_says_its_step(engine: Engine) -> None:
    run_id = engine.submit(endless(eval_every=20))
    wait_for_step(engine, run_id, 20)
    text = written(engine, run_id)
    assert text.error is None
    assert text.step is not None
    assert text.step % 20 == 0
    engine.stop(run_id)


def test_it_does_so_however_often_that_state_is_replaced(engine: Engine) -> None:
    run_id = engine.submit(endless(eval_every=1))
    wait_until(lambda: checkpoints_in(find_run(run_id).resume))
    texts = [written(engine, run_id, max_new_tokens=2) for _ in range(25)]
    assert [text.error for text in texts if text.error] == []
    steps = [text.step for text in texts]
    assert steps == sorted(steps)  # type: ignore[type-var]
    engine.stop(run_id)


def test_a_run_can_write_from_its_first_weights_on(engine: Engine) -> None:
    run_id = engine.submit(endless())
    wait_until(lambda: checkpoints_in(find_run(run_id).resume))
    text = written(engine, run_id)
    assert (text.error, text.step) == (None, 0)
    engine.stop(run_id)


@pytest.mark.parametrize("threads", [1, 2])
def test_generation_beside_a_training_leaves_its_losses_bit_identical(engine: Engine, threads: int) -> None:
    """Wide enough that two threads really share a product; the writer takes one thread for itself."""
    config = small(
        max_steps=60, eval_every=20, drop_rate=0.1, emb_dim=96, batch_size=8, context_length=32, threads=threads
    )
    before = torch.get_num_threads()
    try:
        quiet = train(config).rows.learned()
        other = train(small()).run.run_id
    finally:
        torch.set_num_threads(before)
    run_id = engine.submit(config)
    texts = 0
    while status(engine, run_id) in {"queued", "running"}:
        assert written(engine, other, max_new_tokens=20).error is None
        texts += 1
    assert status(engine, run_id) == "finished"
    assert texts >= 2
    assert learned(engine, run_id) == sorted(quiet)


def status(engine: Engine, run_id: str) -> str:
    from tests.engine.helpers import status_of

    return status_of(engine, run_id)
