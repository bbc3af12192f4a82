"""Steps, epochs or minutes; and every step is full."""

import pytest

from lab.errors import ConfigError
from lab.training import run as run_module
from tests.training.helpers import Trained, small, train, trainer_for


def steps(trained: Trained) -> list[int]:
    assert trained.outcome.status == "finished"
    return list(trained.losses)


def total_steps(trained: Trained) -> list[int]:
    return [row["total_steps"] for row in trained.rows.tables["runs"] if row.get("total_steps") is not None]


def test_a_budget_in_steps_is_kept_to_the_step() -> None:
    trained = train(small(max_steps=7))
    assert steps(trained) == [1, 2, 3, 4, 5, 6, 7]
    assert total_steps(trained) == [7]


@pytest.mark.parametrize(("epochs", "share"), [(1.0, 1), (0.25, 4)])
def test_a_budget_in_epochs_is_that_many_passes_over_the_windows(epochs: float, share: int) -> None:
    one_epoch = trainer_for(small()).batches.steps_per_epoch
    trained = train(small(max_epochs=epochs, max_steps=None, eval_every=1_000))
    expected = -int(-one_epoch // share)
    assert len(steps(trained)) == expected
    assert total_steps(trained) == [expected]


def test_rounding_adds_no_step_to_a_budget_in_epochs() -> None:
    """1.1 × 10 is 11.000000000000002 in binary: 11 steps, not 12."""
    trainer = trainer_for(small(max_epochs=1.1, max_steps=None))
    trainer.batches.steps_per_epoch = 10.0
    assert trainer._steps_of_budget() == 11


def test_part_of_a_step_is_a_whole_one() -> None:
    assert steps(train(small(max_epochs=0.0001, max_steps=None))) == [1]


def test_a_budget_in_minutes_becomes_steps_once_after_twenty_and_is_stored() -> None:
    trained = train(small(max_minutes=0.02, max_steps=None, eval_every=1_000, emb_dim=32, batch_size=16))
    (total,) = total_steps(trained)
    assert steps(trained) == list(range(1, total + 1))
    (said,) = [m for m in trained.rows.messages("decision") if "minutes at the measured" in m]
    assert f"are {total:,} steps" in said
    assert total > 20
    last = trained.rows.tables["metrics"][-1]["elapsed_s"]
    assert 0.3 * 1.2 < last < 3 * 1.2, "0.02 minutes are 1.2 seconds, as far as a busy machine lets one tell"


def test_a_budget_that_is_over_before_twenty_steps_ends_then() -> None:
    trained = train(small(max_minutes=1e-7, max_steps=None))
    assert steps(trained) == [1]


def test_all_budgets_end_with_an_evaluation() -> None:
    assert set(train(small(max_steps=5, eval_every=3)).rows.metric("val/loss")) == {0, 3, 5}
    assert set(train(small(max_steps=6, eval_every=3)).rows.metric("val/loss")) == {0, 3, 6}


def test_two_budgets_are_refused() -> None:
    with pytest.raises(ConfigError, match="One budget is enough"):
        small(max_steps=3, max_epochs=1.0)


def test_pause_does_not_use_up_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_for(small(max_steps=2))
    wants = iter(["run", "pause", *["pause"] * 10])

    class Pausing:
        @property
        def want(self) -> str:
            return next(wants, "run")

        def take_save(self) -> bool:
            return False

    trainer.control = Pausing()  # type: ignore[assignment]
    monkeypatch.setattr("lab.training.trainer.PAUSE_LOOK_S", 0.1)
    trainer.train()
    assert trainer.progress.elapsed_s < 0.9, "a second was spent paused"
    assert trainer.recorder.messages("paused") == ["Paused at step 0."]
    assert trainer.recorder.messages("resumed") == ["Went on from step 0."]


def test_the_run_states_what_it_was_trained_with() -> None:
    trained = train(small())
    assert set(run_module.PACKAGES) & set(trained.run.info()["versions"]) >= {"torch", "duckdb"}
    row = {key: value for row in trained.rows.tables["runs"] for key, value in row.items()}
    assert (row["status"], row["device"], row["n_params"]) == ("finished", "cpu", row["n_trainable"])
    assert row["config"]["model"]["vocab_size"] == trained.run.config().model.vocab_size
