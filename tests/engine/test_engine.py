"""The engine: one queue, one training, and a record that tells the truth."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lab.engine import Engine
from lab.errors import CheckpointError, ConfigError, DataError, RunError, StoreError
from lab.models.checkpoints import checkpoints_in
from lab.rundir import find_run
from lab.store import checkpoints, events, predictions, run_row
from tests.engine.helpers import (
    endless,
    learned,
    recorded_step,
    status_of,
    wait_for_status,
    wait_for_step,
    wait_until,
)
from tests.training.helpers import assert_same_tensors, small, train


def kinds(engine: Engine, run_id: str) -> list[str]:
    return events(engine.database, run_id)["kind"].tolist()


def test_submitted_run_trains_to_its_end(engine: Engine) -> None:
    run_id = engine.submit(small(max_steps=5), name="mine")
    wait_for_status(engine, run_id, "finished")
    row = run_row(engine.database, run_id)
    assert (row["name"], row["error"], row["total_steps"], row["queue_pos"]) == ("mine", None, 5, None)
    assert row["started_at"] <= row["ended_at"]
    assert {"started", "checkpoint", "finished"} <= set(kinds(engine, run_id))
    assert find_run("mine").info()["status"] == "finished"
    assert checkpoints(engine.database, run_id)["kind"].tolist() == ["final"]


def test_it_learns_what_the_same_run_outside_the_app_learns(engine: Engine) -> None:
    config = small(max_steps=12, eval_every=4, drop_rate=0.1, sample_tokens=3)
    run_id = engine.submit(config)
    wait_for_status(engine, run_id, "finished")
    outside = train(config)
    assert learned(engine, run_id) == sorted(outside.rows.learned())


def test_second_run_waits_and_starts_when_the_first_ends(engine: Engine) -> None:
    first, second = engine.submit(endless()), engine.submit(small(max_steps=3))
    wait_for_step(engine, first)
    status = engine.status()
    assert status.running is not None
    assert status.running.run_id == first
    assert [(waiting.run_id, waiting.status) for waiting in status.queue] == [(second, "queued")]
    engine.stop(first)
    wait_for_status(engine, second, "finished")
    assert status_of(engine, first) == "stopped"
    assert (engine.status().running, engine.status().queue) == (None, [])


def test_queue_can_be_reordered_and_cancelled(engine: Engine) -> None:
    running = engine.submit(endless())
    a, b, c = (engine.submit(small(), name=name) for name in "abc")
    engine.move(c, 0)
    engine.move(a, 99)
    assert [waiting.name for waiting in engine.status().queue] == ["c", "b", "a"]
    engine.cancel(b)
    assert [waiting.name for waiting in engine.status().queue] == ["c", "a"]
    assert status_of(engine, b) == find_run(b).info()["status"] == "stopped"
    with pytest.raises(RunError, match="is not waiting in the queue"):
        engine.cancel(b)
    with pytest.raises(RunError, match="is not waiting in the queue"):
        engine.move(b, 0)
    engine.stop(running)
    for run_id in (a, c):
        wait_for_status(engine, run_id, "finished")
    assert run_row(engine.database, c)["started_at"] < run_row(engine.database, a)["started_at"]


def test_stop_of_a_queued_run_takes_it_out_of_the_queue(engine: Engine) -> None:
    running, waiting = engine.submit(endless()), engine.submit(small())
    engine.stop(waiting)
    assert status_of(engine, waiting) == "stopped"
    assert engine.status().queue == []
    engine.stop(running)


def test_pause_holds_the_run_and_unpause_lets_it_go_on(engine: Engine) -> None:
    run_id = engine.submit(endless())
    wait_for_step(engine, run_id)
    engine.pause(run_id)
    wait_for_status(engine, run_id, "paused")
    running = engine.status().running
    assert running is not None
    assert running.status == "paused"
    held = recorded_step(engine, run_id)
    threading.Event().wait(0.3)
    assert recorded_step(engine, run_id) == held
    engine.unpause(run_id)
    wait_for_status(engine, run_id, "running")
    wait_for_step(engine, run_id, held + 1)
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")
    assert [kind for kind in kinds(engine, run_id) if kind in {"paused", "resumed", "stopped"}] == [
        "paused", "resumed", "stopped",
    ]  # fmt: skip


def test_pause_and_resume_do_not_change_what_is_learned(engine: Engine) -> None:
    config = small(max_steps=400, eval_every=100, drop_rate=0.1, grad_accum_steps=2)
    run_id = engine.submit(config)
    for step in (1, 30, 120):
        wait_for_step(engine, run_id, step)
        engine.pause(run_id)
        if wait_for_status(engine, run_id, "paused", "finished") == "paused":
            engine.unpause(run_id)
    wait_for_status(engine, run_id, "finished")
    assert learned(engine, run_id) == sorted(train(config).rows.learned())


def test_a_paused_run_can_be_stopped_and_saved(engine: Engine) -> None:
    run_id = engine.submit(endless())
    wait_for_step(engine, run_id)
    engine.pause(run_id)
    wait_for_status(engine, run_id, "paused")
    engine.save(run_id)
    saved = wait_until(lambda: [info for info in checkpoints_in(find_run(run_id).checkpoints) if info.kind == "saved"])
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")
    assert checkpoints(engine.database, run_id)["kind"].tolist() == ["final"]
    assert checkpoints_in(find_run(run_id).checkpoints)[0].step == saved[0].step


def test_save_now_makes_a_checkpoint_that_stays(engine: Engine) -> None:
    run_id = engine.submit(endless())
    wait_for_step(engine, run_id)
    engine.save(run_id)
    wait_until(lambda: checkpoints(engine.database, run_id)["kind"].tolist() == ["saved"])
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")
    assert checkpoints(engine.database, run_id)["kind"].tolist() == ["saved", "final"]


def test_stopped_run_goes_on_to_the_same_end(engine: Engine) -> None:
    config = small(max_steps=600, eval_every=200, drop_rate=0.1)
    run_id = engine.submit(config)
    wait_for_step(engine, run_id, 1)
    engine.stop(run_id)
    assert wait_for_status(engine, run_id, "stopped", "finished") == "stopped"
    engine.resume(run_id)
    wait_for_status(engine, run_id, "finished")
    straight = train(config)
    assert learned(engine, run_id) == sorted(straight.rows.learned())
    (final,) = [info for info in checkpoints_in(find_run(run_id).checkpoints) if info.kind == "final"]
    assert final.step == 600


def test_what_cannot_be_resumed_is_one_sentence(engine: Engine) -> None:
    running, done = engine.submit(endless()), engine.submit(small())
    wait_for_step(engine, running)
    for run_id, status in ((running, "running"), (done, "queued")):
        with pytest.raises(RunError, match=f"is {status}; only an interrupted, stopped or failed run can be resumed"):
            engine.resume(run_id)
    engine.stop(running)
    wait_for_status(engine, done, "finished")
    with pytest.raises(RunError, match="is finished; only"):
        engine.resume(done)


def test_two_clicks_on_resume_queue_it_once(engine: Engine) -> None:
    blocked = engine.submit(endless())
    run_id = engine.submit(small())
    engine.cancel(run_id)
    outcomes: list[str] = []

    def click() -> None:
        try:
            engine.resume(run_id)
            outcomes.append("queued")
        except RunError:
            outcomes.append("refused")

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    assert sorted(outcomes) == ["queued", "refused", "refused", "refused"]
    assert [waiting.run_id for waiting in engine.status().queue] == [run_id]
    engine.stop(blocked)
    wait_for_status(engine, run_id, "finished")


def test_asking_a_run_that_is_not_running_is_one_sentence(engine: Engine) -> None:
    run_id = engine.submit(small())
    wait_for_status(engine, run_id, "finished")
    for ask in (engine.pause, engine.unpause, engine.stop, engine.save):
        with pytest.raises(RunError, match="is not running, so there is nothing to pause, stop or save"):
            wait_until(lambda ask=ask: ask(run_id))
    with pytest.raises(RunError, match="There is no run"):
        engine.pause("nonsense")


def test_status_gives_step_speed_and_time_left(engine: Engine) -> None:
    run_id = engine.submit(small(max_steps=100_000, eval_every=100_000))
    wait_for_step(engine, run_id, 50)
    wait_until(lambda: (found := engine.status().running) and found.tokens_per_second)
    status = engine.status().running
    assert status is not None
    assert (status.run_id, status.status, status.total_steps) == (run_id, "running", 100_000)
    assert status.step >= 50
    assert status.val_loss == pytest.approx(3.7, abs=0.3)
    assert status.tokens_per_second is not None
    assert status.seconds_left is not None
    by_speed = (100_000 - status.step) * 64 / status.tokens_per_second
    assert 0.2 * by_speed < status.seconds_left < 5 * by_speed
    engine.stop(run_id)


# -- failures -------------------------------------------------------------------------------------------------------


def test_exception_in_the_thread_fails_the_run_with_a_sentence_and_a_traceback_and_the_next_one_starts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.training.pretraining import PretrainTask

    loss_sum = PretrainTask.loss_sum

    def broken(self: PretrainTask, batch: object) -> object:
        if self.config.train.seed == 13:
            raise ZeroDivisionError("division by zero")
        return loss_sum(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(PretrainTask, "loss_sum", broken)
    bad, good = engine.submit(small(seed=13)), engine.submit(small())
    wait_for_status(engine, good, "finished")
    row = run_row(engine.database, bad)
    assert row["status"] == "failed"
    assert row["error"] == (
        "Training broke off with ZeroDivisionError: division by zero The traceback is in the run's folder."
    )
    assert "in broken" in find_run(bad).traceback_path.read_text()
    assert "failed" in kinds(engine, bad)


def test_a_run_that_cannot_even_record_its_failure_is_told_on_the_page_and_the_worker_survives(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lab.training.run

    train_run = lab.training.run.train_run

    def broken(run: object, *args: object) -> object:
        if run.config().train.seed == 13:  # type: ignore[attr-defined]
            raise StoreError("The record could not be written: the disk is full.")
        return train_run(run, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("lab.training.run.train_run", broken)
    bad, good = engine.submit(small(seed=13)), engine.submit(small())
    wait_for_status(engine, good, "finished")
    assert status_of(engine, bad) == find_run(bad).info()["status"] == "failed"
    assert any(bad in notice and "the disk is full" in notice for notice in engine.notices)


def test_worker_survives_a_run_whose_folder_is_gone(engine: Engine) -> None:
    import shutil

    blocked, lost, good = engine.submit(endless()), engine.submit(small()), engine.submit(small())
    shutil.rmtree(find_run(lost).path)
    engine.stop(blocked)
    wait_for_status(engine, good, "finished")
    assert any(lost in notice for notice in engine.notices)


def test_a_poll_that_fails_is_told_once_and_the_next_one_works(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    failing, polls = threading.Event(), []
    failing.set()

    def sometimes(_: object) -> None:
        polls.append(1)
        if failing.is_set():
            raise RuntimeError("a moon is in the way")

    monkeypatch.setattr("lab.engine.serve_snapshots", sometimes)
    wait_until(lambda: len(polls) >= 3)
    failing.clear()
    seen = len(polls)
    wait_until(lambda: len(polls) > seen)
    assert engine.notices.count("RuntimeError: a moon is in the way") == 1


def test_what_cannot_work_is_refused_before_it_is_queued(engine: Engine) -> None:
    with pytest.raises(DataError, match="There is no corpus 'nonsense'"):
        engine.submit(small(corpus="nonsense"))
    with pytest.raises(DataError, match="4,096 \\+ 1 = 4,097"):
        engine.submit(small(context_length=4096))
    assert engine.status().queue == []
    assert len(list((Path(engine.database.path).parent / "outputs").glob("2*"))) == 0


def test_non_finite_loss_is_a_failed_run_with_the_step_and_a_final_checkpoint(engine: Engine) -> None:
    run_id = engine.submit(
        small(max_steps=200, learning_rate=10.0, weight_decay=10.0, schedule="constant", warmup_steps=0)
    )
    wait_for_status(engine, run_id, "failed")
    row = run_row(engine.database, run_id)
    assert "no longer a number" in row["error"]
    assert checkpoints(engine.database, run_id)["kind"].tolist() == ["final"]


# -- predictions, checkpoints, forks --------------------------------------------------------------------------------


def test_what_the_person_expected_is_laid_beside_the_outcome(engine: Engine) -> None:
    run_id = engine.submit(small(), prediction=(3.0, 2.5, 3.5))
    wait_for_status(engine, run_id, "finished")

    def outcome() -> list[dict[str, Any]]:
        found = predictions(engine.database, run_id)
        return found[(found["who"] == "person") & found["actual"].notna()].to_dict("records")

    (row,) = wait_until(outcome)
    assert (row["metric"], row["predicted"], row["low"], row["high"]) == ("val/loss", 3.0, 2.5, 3.5)
    assert row["actual"] == pytest.approx(3.6, abs=0.4)


def test_checkpoint_is_deleted_from_disk_and_record(engine: Engine) -> None:
    run_id = engine.submit(small(max_steps=3, checkpoint_every=1))
    wait_for_status(engine, run_id, "finished")
    engine.delete_checkpoint(run_id, 1)
    assert checkpoints(engine.database, run_id)["step"].tolist() == [2, 3]
    assert [info.step for info in checkpoints_in(find_run(run_id).checkpoints)] == [2, 3]
    with pytest.raises(CheckpointError, match="no kept checkpoint at step 1"):
        engine.delete_checkpoint(run_id, 1)


def test_fork_trains_a_child_from_a_checkpoint(engine: Engine) -> None:
    parent = engine.submit(small(max_steps=4, checkpoint_every=2))
    wait_for_status(engine, parent, "finished")
    config = find_run(parent).config()
    child = engine.fork(
        parent, 2, config.model_copy(update={"train": config.train.model_copy(update={"max_steps": 5})})
    )
    wait_for_status(engine, child, "finished")
    row = run_row(engine.database, child)
    assert (row["parent_run_id"], row["parent_step"], row["total_steps"]) == (parent, 2, 5)
    with pytest.raises(ConfigError, match="cannot change emb_dim"):
        engine.fork(parent, 2, small(emb_dim=32, max_steps=9))


# -- start and end --------------------------------------------------------------------------------------------------


def test_shutdown_stops_the_run_writes_its_final_checkpoint_and_closes_the_record() -> None:
    engine = Engine.start()
    run_id = engine.submit(endless())
    wait_for_step(engine, run_id)
    engine.shutdown()
    run = find_run(run_id)
    assert run.info()["status"] == "stopped"
    assert [info.kind for info in checkpoints_in(run.checkpoints)] == ["final"]
    assert not run.is_alive()
    engine.shutdown()  # a second time does nothing
    again = Engine.start()
    assert status_of(again, run_id) == "stopped"
    assert again.notices == []
    again.shutdown()


def test_queue_is_restored_in_its_order_at_the_next_start() -> None:
    engine = Engine.start()
    running = engine.submit(endless())
    wait_for_step(engine, running)
    a, b = (engine.submit(small(), name=name) for name in "ab")
    engine.move(b, 0)
    engine.shutdown()
    again = Engine.start()
    for run_id in (a, b):
        wait_for_status(again, run_id, "finished")
    assert run_row(again.database, b)["started_at"] < run_row(again.database, a)["started_at"]
    again.shutdown()


def test_start_with_a_queue_that_lost_a_folder_goes_on_with_the_rest(lab_home: Path) -> None:
    import shutil

    engine = Engine.start()
    running = engine.submit(endless())
    wait_for_step(engine, running)
    lost, good = engine.submit(small()), engine.submit(small())
    engine.shutdown()
    shutil.rmtree(lab_home / "outputs" / lost)
    again = Engine.start()
    wait_for_status(again, good, "finished")
    assert status_of(again, lost) == "failed"
    again.shutdown()


def test_engine_does_not_load_torch_before_a_run_starts(lab_home: Path) -> None:
    code = (
        "import sys; from lab.engine import Engine; e = Engine.start(); e.status(); e.shutdown(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    with pytest.raises(StoreError, match=r"cannot be written.*set LAB_HOME to a folder that can"):
        Engine.start()


def test_failed_start_gives_the_record_back(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise StoreError("no luck")

    with monkeypatch.context() as patched:
        patched.setattr("lab.engine.sweep", broken)
        with pytest.raises(StoreError, match="no luck"):
            Engine.start()
    Engine.start().shutdown()


def test_finished_weights_are_those_of_the_same_run_outside(engine: Engine) -> None:
    config = small(max_steps=6, optimizer="adamw_8bit", emb_dim=64)
    run_id = engine.submit(config)
    wait_for_status(engine, run_id, "finished")
    from lab.models.checkpoints import read_checkpoint

    (final,) = checkpoints_in(find_run(run_id).checkpoints)
    assert_same_tensors(read_checkpoint(final)[0], train(config).tensors())
