"""A child starts from its parent's state, with other settings from there on."""

from pathlib import Path

import pytest
import torch

from lab.errors import CheckpointError, ConfigError, LabError
from lab.models.checkpoints import checkpoints_in, list_checkpoints, read_checkpoint
from lab.rundir import all_runs, create_run
from lab.training.fork import fork_run
from lab.training.trainer import Trainer
from tests.training.helpers import Trained, assert_same_tensors, go_on, small, train


@pytest.fixture
def parent() -> Trained:
    return train(small(max_steps=8, checkpoint_every=4, eval_every=4, schedule="constant", warmup_steps=0))


def child_of(parent: Trained, step: int | None = 4, **changes: object) -> Trained:
    settings = {"max_steps": 8, "checkpoint_every": 4, "eval_every": 4, "schedule": "constant", "warmup_steps": 0}
    return go_on(fork_run(parent.run, step, small(**{**settings, **changes})))


def test_unchanged_child_does_what_its_parent_did(parent: Trained) -> None:
    child = child_of(parent)
    assert child.outcome.status == "finished"
    assert child.losses == {step: loss for step, loss in parent.losses.items() if step > 4}
    assert_same_tensors(child.tensors(), parent.tensors())


def test_parent_and_step_are_stored(parent: Trained) -> None:
    child = child_of(parent)
    info = child.run.info()
    assert (info["parent_run_id"], info["parent_step"]) == (parent.run.run_id, 4)
    assert info["name"] == f"{parent.run.run_id} from step 4"
    first_row = child.rows.tables["runs"][0]
    assert (first_row["parent_run_id"], first_row["parent_step"]) == (parent.run.run_id, 4)


def test_child_begins_with_a_look_at_where_it_starts_from(parent: Trained) -> None:
    child = child_of(parent)
    assert set(child.rows.metric("val/loss")) == {4, 8}
    assert child.rows.metric("val/loss")[4] == parent.rows.metric("val/loss")[4]


def test_changed_settings_take_effect_from_there_on(parent: Trained) -> None:
    child = child_of(parent, learning_rate=1e-3, weight_decay=0.0, batch_size=2, drop_rate=0.2, max_steps=6)
    assert list(child.losses) == [5, 6]
    assert set(child.rows.metric("train/learning_rate").values()) == {1e-3}
    assert child.run.config().train.batch_size == 2
    assert child.losses[5] != parent.losses[5]
    tokens = {row["step"]: row["tokens_seen"] for row in child.rows.tables["metrics"]}
    assert tokens[6] - tokens[5] == 2 * 16


def test_newest_state_is_taken_when_no_step_is_given(parent: Trained) -> None:
    child = child_of(parent, None, max_steps=10)
    assert child.run.info()["parent_step"] == 8
    assert list(child.losses) == [9, 10]


def test_an_epochs_budget_counts_from_the_first_step_of_the_parent(parent: Trained) -> None:
    child = child_of(parent, max_steps=None, max_epochs=0.1)
    assert min(child.losses) == 5
    assert child.outcome.status == "finished"


def test_a_minutes_budget_is_the_childs_own(parent: Trained) -> None:
    child = child_of(parent, max_steps=None, max_minutes=0.003)
    assert child.outcome.status == "finished"
    assert len(child.losses) >= 1
    elapsed = [row["elapsed_s"] for row in child.rows.tables["metrics"] if row["name"] == "train/loss"]
    before = read_checkpoint(list_checkpoints(parent.run)[0])[1]["progress"]["elapsed_s"]
    assert elapsed[0] > before, "its clock goes on from the parent's"


@pytest.mark.parametrize(
    "change",
    [
        {"emb_dim": 32}, {"n_layers": 1}, {"n_heads": 4}, {"context_length": 8}, {"qkv_bias": True},
        {"tie_embeddings": True}, {"tokenizer": "gpt2"},
    ],
)  # fmt: skip
def test_another_shape_is_refused_naming_field_and_values_and_makes_no_run(parent: Trained, change: dict) -> None:
    before = all_runs()
    (name,) = change
    with pytest.raises(ConfigError, match=f"cannot change {name} from .* to {change[name]}; start a new run"):
        child_of(parent, **change)
    assert all_runs() == before


def test_a_budget_that_ends_before_the_checkpoint_is_refused(parent: Trained) -> None:
    before = all_runs()
    with pytest.raises(ConfigError, match="give more than the 4 that its checkpoint has"):
        child_of(parent, max_steps=4)
    assert all_runs() == before


def test_epochs_that_end_before_the_checkpoint_fail_with_a_sentence(parent: Trained) -> None:
    child = child_of(parent, max_steps=None, max_epochs=0.0001)
    assert child.outcome.status == "failed"
    assert "Nothing is left to do" in (child.outcome.error or "")


def test_missing_or_damaged_checkpoint_makes_no_run(parent: Trained) -> None:
    before = all_runs()
    with pytest.raises(CheckpointError, match="no checkpoint at step 5; it has 4, 8"):
        child_of(parent, 5)
    path = parent.run.checkpoints / "checkpoint-4.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="step 4 is damaged"):
        child_of(parent, 4)
    assert all_runs() == before


def test_failing_to_take_the_state_over_leaves_no_half_made_run(parent: Trained) -> None:
    """A live parent may replace its rolling state in that very moment."""
    before = all_runs()
    parent.run.tokenizer_path.unlink()
    with pytest.raises(CheckpointError, match="could not be taken over"):
        child_of(parent)
    assert all_runs() == before


def test_parents_files_are_not_touched_by_the_child(parent: Trained) -> None:
    before = {path: path.read_bytes() for path in parent.run.checkpoints.iterdir()}
    child_of(parent)
    assert {path: path.read_bytes() for path in parent.run.checkpoints.iterdir()} == before


def test_another_optimizer_starts_its_averages_from_nothing(parent: Trained) -> None:
    child = child_of(parent, optimizer="adamw_8bit", max_steps=5)
    assert child.outcome.status == "finished"
    assert any("its averages start from nothing" in message for message in child.rows.messages("decision"))
    steps = {n for place, n in read_checkpoint(child.final)[1]["optimizer_numbers"].items() if place.endswith("/step")}
    assert steps == {1}
    tensors = parent.tensors()
    assert all(tensor.item() == 8 for name, tensor in tensors.items() if name.endswith("/step"))


def test_another_corpus_starts_reading_at_its_beginning(parent: Trained, lab_home: Path) -> None:
    text = lab_home / "mine.txt"
    text.write_text("The cat sat on the mat. Mia had a red boat. " * 60)
    child = child_of(parent, corpus=str(text))
    assert child.outcome.status == "finished"
    assert any("reading starts at the beginning" in message for message in child.rows.messages("decision"))
    fresh = train(small(max_steps=4, corpus=str(text)))
    assert read_checkpoint(child.final)[1]["batches"] == read_checkpoint(fresh.final)[1]["batches"]


def test_corpus_with_characters_the_parent_never_saw_is_one_sentence(parent: Trained, lab_home: Path) -> None:
    text = lab_home / "mine.txt"
    text.write_text("Größe " * 500)
    child = child_of(parent, corpus=str(text))
    assert child.outcome.status == "failed"
    assert "ö" in (child.outcome.error or "")


@pytest.mark.parametrize("at", [5, 7])
def test_interrupted_child_resumes_to_the_same_end(parent: Trained, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first own state it starts anew from its parent's."""
    straight = child_of(parent, learning_rate=5e-3, eval_every=3)
    after_step = Trainer._after_step

    def break_off(self: Trainer) -> None:
        after_step(self)
        self.keeper.collect(wait=True)
        if self.progress.step == at:
            raise RuntimeError("the power failed")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_after_step", break_off)
        broken = child_of(parent, learning_rate=5e-3, eval_every=3)
    resumed = go_on(broken.run, broken.rows)
    assert resumed.outcome.status == "finished"
    assert resumed.rows.learned() == straight.rows.learned()
    assert_same_tensors(resumed.tensors(), straight.tensors())


def test_child_whose_start_is_gone_does_not_silently_begin_with_random_weights(parent: Trained) -> None:
    run = fork_run(parent.run, 4, small(max_steps=8))
    for info in checkpoints_in(run.resume):
        info.path.with_suffix(".json").unlink()
    child = go_on(run)
    assert child.outcome.status == "failed"
    assert "that this run was to start from are gone" in (child.outcome.error or "")


def test_child_can_be_opened_before_its_first_step(parent: Trained) -> None:
    from lab.sessions import open_session

    run = fork_run(parent.run, 4, small(max_steps=8))
    assert open_session(run.run_id).step == 4
    assert [info.kind for info in list_checkpoints(run)] == ["resume"]


def test_fork_of_a_run_without_any_state_is_one_sentence() -> None:
    run = create_run(small())
    with pytest.raises(LabError, match="has no checkpoint yet"):
        fork_run(run, None, small())


def test_tied_parent_has_a_tied_child() -> None:
    settings = {"tie_embeddings": True, "max_steps": 2, "checkpoint_every": 1}
    parent = train(small(**settings))
    child = child_of(parent, 1, **settings)
    assert torch.equal(child.tensors()["model.tok_emb.weight"], child.tensors()["model.tok_emb.weight"])
    assert "model.out_head.weight" not in child.tensors()
