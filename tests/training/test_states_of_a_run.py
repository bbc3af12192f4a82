"""What a run keeps: a final checkpoint always, periodic ones if asked for, and one rolling state while it goes on."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import RunError
from lab.models import checkpoints
from lab.models.checkpoints import CheckpointInfo, checkpoints_in, find_checkpoint
from lab.rundir import RunDir, create_run
from lab.training import keeper as keeper_module
from lab.training.trainer import Trainer
from tests.training.helpers import RowList, Trained, assert_same_tensors, go_on, small, train


def kept(trained: Trained) -> list[tuple[int, str]]:
    return [(info.step, info.kind) for info in checkpoints_in(trained.run.checkpoints)]


def told(trained: Trained) -> dict[int, str]:
    """The kind of each checkpoint by the record: a step's last row counts."""
    last = {row["step"]: row["kind"] for row in trained.rows.tables["checkpoints"]}
    return {step: kind for step, kind in last.items() if kind != "deleted"}


@pytest.fixture
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Trainer], None]], None]:
    """Look at a run, or meddle with it, between two of its steps, when all writes are through."""
    after_step = Trainer._after_step

    def install(look: Callable[[Trainer], None]) -> None:
        def looked(self: Trainer) -> None:
            after_step(self)
            self.keeper.collect(wait=True)
            look(self)

        monkeypatch.setattr(Trainer, "_after_step", looked)

    return install


def test_periodic_checkpoints_are_off_by_default_and_the_final_one_is_always_written() -> None:
    trained = train(small(max_steps=5, eval_every=2))
    assert kept(trained) == [(5, "final")]
    assert told(trained) == {5: "final"}
    assert trained.final.val_loss == trained.rows.metric("val/loss")[5]


def test_periodic_checkpoints_come_when_asked_for_and_the_last_step_has_only_the_final_one() -> None:
    assert kept(train(small(max_steps=6, checkpoint_every=2))) == [(2, "kept"), (4, "kept"), (6, "final")]


def test_keep_last_bounds_the_periodic_ones(after_each_step: Callable) -> None:
    most: list[int] = []
    after_each_step(lambda trainer: most.append(len(checkpoints_in(trainer.keeper.run.checkpoints))))
    trained = train(small(max_steps=9, checkpoint_every=1, keep_last=2))
    assert kept(trained) == [(7, "kept"), (8, "kept"), (9, "final")]
    assert told(trained) == dict(kept(trained))
    assert max(most) == 2


def test_save_now_makes_one_that_stays(after_each_step: Callable) -> None:
    def save_at_three(trainer: Trainer) -> None:
        if trainer.progress.step == 2:
            trainer.keeper.run.ask(save=True)

    after_each_step(save_at_three)
    trained = train(small(max_steps=9, checkpoint_every=2, keep_last=1))
    assert kept(trained) == [(3, "saved"), (8, "kept"), (9, "final")]


def test_save_now_at_the_step_of_a_periodic_one_makes_that_one_stay(after_each_step: Callable) -> None:
    def save_at_two(trainer: Trainer) -> None:
        if trainer.progress.step == 1:
            trainer.keeper.run.ask(save=True)

    after_each_step(save_at_two)
    trained = train(small(max_steps=7, checkpoint_every=2, keep_last=1))
    assert kept(trained) == [(2, "saved"), (6, "kept"), (7, "final")]
    assert told(trained) == dict(kept(trained))


def test_a_step_that_is_on_disk_already_is_not_written_a_second_time(
    after_each_step: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the new data and the new JSON, it would be damaged: a step that was safe would be lost."""
    write, written = checkpoints.write_checkpoint, []
    monkeypatch.setattr(
        checkpoints,
        "write_checkpoint",
        lambda folder, **k: written.append((k["step"], k["kind"])) or write(folder, **k),
    )

    def save_at_two_and_stop_at_four(trainer: Trainer) -> None:
        if trainer.progress.step == 1:
            trainer.keeper.run.ask(save=True)
        if trainer.progress.step == 4:
            trainer.keeper.run.ask(want="stop")

    after_each_step(save_at_two_and_stop_at_four)
    trained = train(small(max_steps=9, checkpoint_every=2))
    assert [entry for entry in written if entry[1] != "resume"] == [(2, "kept"), (4, "kept")]
    assert kept(trained) == [(2, "saved"), (4, "final")]
    assert told(trained) == dict(kept(trained))


def test_rolling_state_is_there_during_the_run_replaced_and_gone_when_the_final_one_stands(
    after_each_step: Callable,
) -> None:
    rolling: dict[int, list[tuple[int, str]]] = {}

    def look(trainer: Trainer) -> None:
        found = checkpoints_in(trainer.keeper.run.resume)
        rolling[trainer.progress.step] = [(info.step, info.kind) for info in found]

    after_each_step(look)
    trained = train(small(max_steps=7, eval_every=3))
    assert rolling == {
        1: [(0, "resume")], 2: [(0, "resume")], 3: [(3, "resume")], 4: [(3, "resume")], 5: [(3, "resume")],
        6: [(6, "resume")], 7: [(6, "resume")],
    }  # fmt: skip
    assert not any(trained.run.resume.iterdir())


def test_rolling_state_is_never_older_than_a_minute(after_each_step: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With evaluations far apart, time alone calls for it. Here a minute is nothing."""
    monkeypatch.setattr(keeper_module, "RESUME_EVERY_S", 0.0)
    rolling: list[int] = []
    after_each_step(lambda trainer: rolling.append(find_checkpoint(trainer.keeper.run).step))
    train(small(max_steps=4, eval_every=1_000))
    assert rolling[1:3] == [2, 3], "at step 1 the first one may still have been on its way to the disk"


def test_rolling_state_that_a_slow_disk_held_up_is_kept_as_soon_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of step 0 takes until after step 3, so that of step 2 has to wait: it becomes that of step 4."""
    held, kept_at = threading.Event(), []
    write = keeper_module.Keeper._write_resume

    def slow_at_first(self: keeper_module.Keeper, snapshot: keeper_module.Snapshot) -> CheckpointInfo:
        if snapshot.step == 0:
            held.wait(10)
        kept_at.append(snapshot.step)
        return write(self, snapshot)

    after_step = Trainer._after_step

    def let_go_after_three(self: Trainer) -> None:
        after_step(self)
        if self.progress.step == 3:
            held.set()
            self.keeper.collect(wait=True)

    monkeypatch.setattr(keeper_module.Keeper, "_write_resume", slow_at_first)
    monkeypatch.setattr(Trainer, "_after_step", let_go_after_three)
    train(small(max_steps=7, eval_every=2, sample_tokens=0))
    assert kept_at[:2] == [0, 4]


def test_state_is_never_ahead_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who resumes from a state does not write the rows before it again: they have to be durable first."""
    durable: list[int] = []
    handed: list[tuple[int, int]] = []

    class Watched(RowList):
        def flush(self) -> None:
            durable.append(max((row["step"] for row in self.tables.get("metrics", [])), default=0))

    take = keeper_module.take_snapshot
    monkeypatch.setattr(
        "lab.training.trainer.take_snapshot", lambda step, *a: handed.append((step, durable[-1])) or take(step, *a)
    )
    go_on(create_run(small(max_steps=8, eval_every=3, checkpoint_every=2)), Watched())
    assert {step for step, _ in handed} >= {0, 2, 4, 6, 8}
    assert all(rows >= step for step, rows in handed)


def test_stop_writes_a_final_checkpoint_and_a_resume_goes_on_from_it_to_the_same_end(after_each_step: Callable) -> None:
    straight = train(small(max_steps=8, eval_every=3, drop_rate=0.1))
    asked: list[int] = []

    def stop_once(trainer: Trainer) -> None:
        if trainer.progress.step == 4 and not asked:
            asked.append(4)
            trainer.keeper.run.ask(want="stop")

    after_each_step(stop_once)
    stopped = train(small(max_steps=8, eval_every=3, drop_rate=0.1))
    assert (stopped.outcome.status, stopped.outcome.steps) == ("stopped", 4)
    assert kept(stopped) == [(4, "final")]
    stopped.run.ask(want="run")
    resumed = go_on(stopped.run, stopped.rows)
    assert resumed.outcome.status == "finished"
    assert kept(resumed) == [(4, "saved"), (8, "final")]
    assert told(resumed) == dict(kept(resumed))
    assert resumed.rows.learned() == straight.rows.learned()
    assert_same_tensors(resumed.tensors(), straight.tensors())


def test_stop_in_the_middle_of_a_step_leaves_no_trace_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two micro-batches: half a gradient is there, and the text is read on already."""
    config = small(max_steps=6, eval_every=3, grad_accum_steps=4)
    straight = train(config)
    run, looks = create_run(config), iter(range(1_000))
    stop_asked = Trainer._stop_asked

    def stop_after_two_micro_batches(self: Trainer) -> bool:
        if self.progress.step == 4 and self.batches.state() != self._place and next(looks) == 2:
            run.ask(want="stop")
        return stop_asked(self)

    monkeypatch.setattr(Trainer, "_stop_asked", stop_after_two_micro_batches)
    stopped = go_on(run)
    assert (stopped.outcome.status, stopped.outcome.steps) == ("stopped", 4)
    run.ask(want="run")
    resumed = go_on(run, stopped.rows)
    assert resumed.rows.learned() == straight.rows.learned()
    assert_same_tensors(resumed.tensors(), straight.tensors())


@pytest.mark.parametrize("at", [3, 6])
def test_stop_during_an_evaluation_records_nothing_of_it_and_a_resume_makes_it(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also during the last one: a run is finished when its last evaluation is."""
    config = small(max_steps=6, eval_every=3, sample_tokens=3)
    straight = train(config)
    with monkeypatch.context() as patched:
        patched.setattr(
            "lab.training.pretraining.PretrainTask.samples",
            lambda self, step, stop: runs[0].ask(want="stop") or [] if step == at else [],
        )
        runs = [create_run(config)]
        stopped = go_on(runs[0])
    assert (stopped.outcome.status, stopped.outcome.steps) == ("stopped", at)
    assert at not in stopped.rows.metric("val/loss")
    runs[0].ask(want="run")
    resumed = go_on(runs[0], stopped.rows)
    assert resumed.outcome.status == "finished"
    assert resumed.rows.learned() == straight.rows.learned()


def test_save_during_a_pause_is_served_at_once_with_the_state_of_the_last_whole_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Paused between two micro-batches of step 3: what is saved is step 2, and going on from it changes nothing."""
    config = small(max_steps=5, grad_accum_steps=2)
    straight, run, looks = train(config), create_run(config), iter(range(1_000))
    stop_asked = Trainer._stop_asked

    def pause(self: Trainer) -> bool:
        if self.progress.step == 2 and self.batches.state() != self._place and next(looks) == 1:
            run.ask(want="pause", save=True)
        return stop_asked(self)

    def go_on_when_saved(self: Trainer) -> None:
        collect(self.keeper, wait=True)
        if any(info.step == 2 for info in checkpoints_in(run.checkpoints)):
            run.ask(want="run")

    collect = keeper_module.Keeper.collect
    monkeypatch.setattr(Trainer, "_stop_asked", pause)
    monkeypatch.setattr("lab.training.trainer.time.sleep", lambda _: go_on_when_saved(trainers[0]))
    trainers: list[Trainer] = []
    init = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *a, **k: trainers.append(self) or init(self, *a, **k))
    paused = go_on(run)
    assert kept(paused) == [(2, "saved"), (5, "final")]
    assert paused.rows.learned() == straight.rows.learned()
    assert_same_tensors(paused.tensors(), straight.tensors())

    monkeypatch.undo()
    monkeypatch.setenv("LAB_HOME", str(run.path.parent.parent))
    copy = RunDir(run.path.with_name("20990101-000000-aaaa"))
    copy.checkpoints.mkdir(parents=True)
    for name in ("run.json", "config.json", "tokenizer.json", "checkpoints/checkpoint-2.safetensors",
                 "checkpoints/checkpoint-2.json"):  # fmt: skip
        (copy.path / name).write_bytes((run.path / name).read_bytes())
    copy.update_info(status="interrupted")
    assert_same_tensors(go_on(copy).tensors(), straight.tensors())


# -- damage ---------------------------------------------------------------------------------------------------------


def interrupted_at(config_changes: dict, steps: int, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A run that broke off after `steps` steps with all that it had kept until then."""
    after_step = Trainer._after_step

    def break_off(self: Trainer) -> None:
        after_step(self)
        self.keeper.collect(wait=True)
        if self.progress.step == steps:
            raise RuntimeError("the power failed")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_after_step", break_off)
        trained = train(small(**config_changes))
    assert trained.outcome.status == "failed"
    assert "RuntimeError: the power failed" in trained.run.traceback_path.read_text()
    return trained


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


def test_damaged_state_is_named_and_the_resume_goes_on_from_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"max_steps": 8, "eval_every": 5, "checkpoint_every": 3, "drop_rate": 0.1}
    straight = train(small(**settings))
    broken = interrupted_at(settings, 7, monkeypatch)
    assert [i.step for i in checkpoints_in(broken.run.checkpoints) + checkpoints_in(broken.run.resume)] == [3, 6, 5]
    flip_a_byte(broken.run.checkpoints / "checkpoint-6.safetensors")
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "finished"
    (said,) = [message for message in resumed.rows.messages("warning") if "damaged" in message]
    assert "checkpoint-6.safetensors of step 6 is damaged" in said
    assert "Going on from step 5 instead." in said
    assert resumed.rows.learned() == straight.rows.learned()
    assert_same_tensors(resumed.tensors(), straight.tensors())
    assert kept(resumed) == [(3, "kept"), (6, "kept"), (8, "final")], "step 6 was written anew"


def test_damaged_json_beside_a_state_is_damage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = interrupted_at({"max_steps": 8, "eval_every": 5, "checkpoint_every": 3}, 7, monkeypatch)
    (broken.run.checkpoints / "checkpoint-6.json").write_text("{")
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "finished"
    assert "Going on from step 5 instead." in resumed.rows.messages("warning")[0]


def test_only_damaged_states_are_one_sentence_and_no_silent_start_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = interrupted_at({"max_steps": 8, "eval_every": 5}, 7, monkeypatch)
    flip_a_byte(broken.run.resume / "checkpoint-5.safetensors")
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "failed"
    assert f"No state of run {broken.run.run_id} can be read." in (resumed.outcome.error or "")
    assert len(resumed.losses) == 7, "its rows are still there"


def test_states_of_a_killed_writer_are_tidied_up(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = interrupted_at({"max_steps": 8, "eval_every": 5}, 7, monkeypatch)
    leftovers = [
        broken.run.resume / ".checkpoint-6.safetensors.0badf00d.tmp",
        broken.run.resume / "checkpoint-6.safetensors",
        broken.run.path / ".run.json.0badf00d.tmp",
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    assert go_on(broken.run, broken.rows).outcome.status == "finished"
    assert not any(path.exists() for path in leftovers)


def test_room_that_a_killed_process_did_not_make_is_made_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had written the third of two, and was gone before it deleted the first."""
    settings = {"max_steps": 8, "eval_every": 5, "checkpoint_every": 2, "keep_last": 2}
    with monkeypatch.context() as patched:
        patched.setattr(keeper_module.Keeper, "make_room", lambda self: None)
        broken = interrupted_at(settings, 7, patched)
    assert [step for step, _ in kept(broken)] == [2, 4, 6]
    resumed = go_on(broken.run, broken.rows)
    assert kept(resumed) == [(4, "kept"), (6, "kept"), (8, "final")]
    assert told(resumed) == dict(kept(resumed))


def test_a_run_killed_after_its_final_checkpoint_ends_as_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(max_steps=4, eval_every=2)
    straight = train(config)
    done = train(config)
    done.run.update_info(status="interrupted")  # as the sweep finds it
    resumed = go_on(done.run, done.rows)
    assert resumed.outcome.status == done.run.info()["status"] == "finished"
    assert resumed.rows.learned() == straight.rows.learned()
    assert kept(resumed) == [(4, "final")]


def test_a_finished_run_is_not_trained_again() -> None:
    done = train(small())
    with pytest.raises(RunError, match="is finished: there is nothing to go on with"):
        go_on(done.run)
    assert done.run.info()["status"] == "finished"


def test_a_run_that_another_process_trains_is_left_alone() -> None:
    run = create_run(small())
    with run.lock(), pytest.raises(RunError, match="being trained by another process"):
        go_on(run)
    assert run.info()["status"] == "queued"


def test_changed_text_is_refused_on_resume_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, lab_home: Path) -> None:
    text = lab_home / "mine.txt"
    text.write_text("The cat sat on the mat. " * 60)
    broken = interrupted_at({"max_steps": 8, "eval_every": 5, "corpus": str(text)}, 7, monkeypatch)
    text.write_text("The mat sat on the cat. " * 60)
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "failed"
    assert "has changed since this run began" in (resumed.outcome.error or "")
    assert len(resumed.losses) == 7


def test_other_vocabulary_than_the_weights_have_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = interrupted_at({"max_steps": 8, "eval_every": 5}, 7, monkeypatch)
    stored = json.loads(broken.run.tokenizer_path.read_text())
    stored["characters"] += "ÄÖÜ"
    broken.run.tokenizer_path.write_text(json.dumps(stored))
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "failed"
    assert "a different width, context, depth or vocabulary" in (resumed.outcome.error or "")
    assert checkpoints_in(broken.run.resume)


def test_unknown_character_for_the_runs_tokenizer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = interrupted_at({"max_steps": 8, "eval_every": 5}, 7, monkeypatch)
    stored = json.loads(broken.run.tokenizer_path.read_text())
    stored["characters"] = stored["characters"][:-3]
    broken.run.tokenizer_path.write_text(json.dumps(stored))
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "failed"
    assert "\n" not in (resumed.outcome.error or "\n")
