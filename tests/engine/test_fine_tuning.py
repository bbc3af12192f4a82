"""The engine's buttons on a fine-tuning run: the same queue, pause, stop, save, resume and fork."""

from pathlib import Path

import pytest

from lab.config import changed
from lab.engine import Engine
from lab.errors import DataError
from lab.finetuning.chat import reply
from lab.finetuning.formats import Turn
from lab.generations import Chat
from lab.models.sampling import Sampling
from lab.rundir import all_runs, find_run
from lab.sessions import shelf
from lab.store import checkpoints, list_runs, run_row
from tests.engine.helpers import learned, recorded_step, status_of, wait_for_status, wait_for_step, wait_until
from tests.finetuning.conftest import tiny_llama as tiny_llama
from tests.finetuning.helpers import config_for
from tests.finetuning.test_broken_data import BROKEN


def test_a_fine_tuning_is_paused_saved_stopped_resumed_and_forked_like_any_run(
    engine: Engine, tiny_llama: Path
) -> None:
    config = config_for(tiny_llama, max_steps=1_000_000, eval_every=1_000_000, eval_tokens=200)
    run_id = engine.submit(config, name="parrot", prediction=(3.0, 2.0, 4.0))
    wait_for_step(engine, run_id, 2)
    assert run_row(engine.database, run_id)["kind"] == "finetune"
    engine.pause(run_id)
    wait_for_status(engine, run_id, "paused")
    step = recorded_step(engine, run_id)
    engine.save(run_id)
    wait_until(lambda: "saved" in set(checkpoints(engine.database, run_id)["kind"]))
    assert recorded_step(engine, run_id) == step, "it stands still"
    engine.unpause(run_id)
    wait_for_step(engine, run_id, step + 1)
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")
    stopped = recorded_step(engine, run_id)
    engine.resume(run_id)
    wait_for_step(engine, run_id, stopped + 1)
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")

    child = engine.fork(run_id, None, changed(find_run(run_id).config(), max_steps=recorded_step(engine, run_id) + 1))
    wait_for_status(engine, child, "finished")
    assert run_row(engine.database, child)["parent_run_id"] == run_id
    assert status_of(engine, child) == "finished"


def test_no_kind_of_broken_data_set_starts_anything(engine: Engine, tiny_llama: Path, tmp_path: Path) -> None:
    assert len(BROKEN) >= 20
    for number, (name, content, sentence) in enumerate(BROKEN.values()):
        rows = tmp_path / str(number) / name
        rows.parent.mkdir()
        rows.write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            engine.submit(config_for(tiny_llama, dataset=str(rows), max_length=256))
    assert not all_runs()
    assert list_runs(engine.database).empty
    assert (engine.status().running, engine.status().queue) == (None, [])


def answered(engine: Engine, run_id: str, *, length: int = 6, scale: float = 1.0, step: int | None = None) -> Chat:
    sampling = Sampling(temperature=0.0, max_new_tokens=length)
    chat = engine.writing.ask(run_id, step, "What is the sea?", sampling, scale)
    return wait_until(lambda: chat.done and chat)


@pytest.fixture
def tuned(engine: Engine, tiny_llama: Path) -> str:
    run_id = engine.submit(config_for(tiny_llama, max_steps=3, eval_every=2, checkpoint_every=1))
    wait_for_status(engine, run_id, "finished")
    return run_id


def test_answers_in_the_background_are_those_of_the_models_own_sessions(engine: Engine, tuned: str) -> None:
    chat = answered(engine, tuned, scale=1.5, step=2)
    assert (chat.error, chat.step) == (None, 2)
    session, turns = shelf.get(f"{tuned}@2"), (Turn("user", "What is the sea?"),)
    sampling = Sampling(temperature=0.0, max_new_tokens=6)
    assert tuple(chat.base) == reply(session, turns, sampling, scale=0.0).words
    assert tuple(chat.tuned) == reply(session, turns, sampling, scale=1.5).words
    assert engine.writing.chat(tuned) is chat


def test_a_question_ends_the_one_before_and_what_cannot_be_answered_is_one_sentence(engine: Engine, tuned: str) -> None:
    with shelf.get(tuned).weights.lock:
        first = engine.writing.ask(tuned, None, "What is the sea?", Sampling(max_new_tokens=1_000_000), 1.0)
        second = engine.writing.ask(tuned, 7, "And the land?", Sampling(), 1.0)
    wait_until(lambda: first.done and second.done)
    assert (first.error, first.tuned) == (None, [])
    assert engine.writing.chat(tuned) is second
    assert "no checkpoint at step 7" in (second.error or "")


@pytest.mark.parametrize("threads", [1, 2])
def test_questions_beside_a_fine_tuning_leave_its_losses_bit_identical(
    engine: Engine, tuned: str, tiny_llama: Path, threads: int
) -> None:
    """A question to another run, and to the one that trains: both sit on the same base as the training."""
    config = config_for(tiny_llama, max_steps=24, eval_every=8, lora_dropout=0.1, threads=threads, learning_rate=1e-3)
    quiet = engine.submit(config)
    wait_for_status(engine, quiet, "finished")
    run_id = engine.submit(config)
    wait_for_step(engine, run_id, 0)
    asked = 0
    while status_of(engine, run_id) in {"queued", "running"}:
        assert answered(engine, tuned).error is None
        assert answered(engine, run_id).error is None
        asked += 1
    assert status_of(engine, run_id) == "finished"
    assert asked >= 2
    assert learned(engine, run_id) == learned(engine, quiet)
