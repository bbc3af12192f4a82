"""When the loss is no longer a number, the run stops before it does harm, and says where."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.models.checkpoints import checkpoints_in, read_weights
from lab.models.gpt import build_gpt
from lab.training.keeper import Keeper
from lab.training.pretraining import PretrainTask
from tests.training.helpers import Trained, assert_same_tensors, small, train

Poison = Callable[[PretrainTask, Tensor], Tensor]


def poisoned(monkeypatch: pytest.MonkeyPatch, step: int, poison: Poison) -> None:
    """Change the training loss of update number `step`, counted from 1."""
    loss_sum = PretrainTask.loss_sum

    def changed(self: PretrainTask, batch: Any) -> Tensor:
        loss = loss_sum(self, batch)
        due = self.model.training and self.dropout_clock.step == step - 1
        return poison(self, loss) if due else loss

    monkeypatch.setattr(PretrainTask, "loss_sum", changed)


def nan(_: PretrainTask, loss: Tensor) -> Tensor:
    return loss * math.nan


class _GradientIsNan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0] * math.nan


def nan_gradient(_: PretrainTask, loss: Tensor) -> Tensor:
    return _GradientIsNan.apply(loss)


def assert_final_weights_are_those_after(step: int, trained: Trained) -> None:
    """The same as a run of the same schedule that was meant to end there."""
    straight = train(small(max_steps=step, schedule="constant", warmup_steps=0))
    assert_same_tensors(trained.tensors(), straight.tensors())


@pytest.mark.parametrize(("poison", "what"), [(nan, "training loss"), (nan_gradient, "gradient")])
def test_the_run_stops_before_the_update_names_the_step_and_keeps_the_last_good_weights(
    poison: Poison, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        poisoned(patched, 4, poison)
        trained = train(small(max_steps=9, schedule="constant", warmup_steps=0))
    assert trained.outcome.status == "failed"
    assert f"The {what} at step 4 is nan, no longer a number" in (trained.outcome.error or "")
    assert "The final checkpoint holds the weights of step 3." in (trained.outcome.error or "")
    assert list(trained.losses) == [1, 2, 3]
    assert trained.final.step == 3
    assert_final_weights_are_those_after(3, trained)
    assert not checkpoints_in(trained.run.resume)
    assert trained.run.info()["status"] == "failed"
    assert "TrainingError" in trained.run.traceback_path.read_text()


def test_at_the_first_step_the_first_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 1, nan)
    trained = train(small())
    assert trained.final.step == 0
    config = trained.run.config()
    first = dict(build_gpt(config.model, seed=config.train.seed).named_parameters())
    assert_same_tensors(read_weights(trained.final), first)


def test_huge_learning_rate_ends_in_one_sentence_and_weights_that_still_predict() -> None:
    """Weight decay 10 at learning rate 10 multiplies each matrix by −99 a step."""
    config = small(max_steps=200, learning_rate=10.0, weight_decay=10.0, schedule="constant", warmup_steps=0)
    trained = train(config)
    assert trained.outcome.status == "failed"
    assert "no longer a number" in (trained.outcome.error or "")
    assert all(torch.isfinite(weight).all() for weight in read_weights(trained.final).values())
    assert f"holds the weights of step {trained.final.step}." in (trained.outcome.error or "")


def test_weights_that_no_longer_predict_give_way_to_the_last_state_that_did(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = PretrainTask.evaluate

    def breaking(self: PretrainTask, stop: Callable[[], bool]) -> dict[str, float] | None:
        if self.dropout_clock.step == 4 - 1:
            self.model.out_head.weight.data.fill_(math.inf)
        return evaluate(self, stop)

    monkeypatch.setattr(PretrainTask, "evaluate", breaking)
    monkeypatch.setattr(Keeper, "is_writing", False)  # else a slow disk puts the state of step 2 off to step 3
    trained = train(small(max_steps=9, eval_every=2, sample_tokens=3))
    assert trained.outcome.status == "failed"
    assert (trained.outcome.error or "").startswith("The validation loss at step 4 is nan, no longer a number")
    assert "The final checkpoint holds the weights of step 2." in (trained.outcome.error or "")
    assert trained.final.step == 2
    assert trained.final.val_loss == trained.rows.metric("val/loss")[2]
    assert set(trained.rows.metric("val/loss")) == {0, 2}


def test_fp16_leaves_out_a_step_whose_scaled_gradient_overflows_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 2, nan_gradient)
    trained = train(small(max_steps=4, precision="fp16"))
    assert trained.outcome.status == "finished"
    (said,) = trained.rows.messages("warning")
    assert "lowered from 65,536 to 32,768" in said
    assert set(trained.rows.metric("train/grad_norm")) == {1, 3, 4}


def test_fp16_gradient_that_never_is_a_number_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    loss_sum = PretrainTask.loss_sum
    monkeypatch.setattr(
        PretrainTask,
        "loss_sum",
        lambda self, batch: nan_gradient(self, loss_sum(self, batch)) if self.model.training else loss_sum(self, batch),
    )
    trained = train(small(max_steps=100, precision="fp16"))
    assert trained.outcome.status == "failed"
    assert "whatever the loss scale" in (trained.outcome.error or "")
    assert trained.final.step == len(trained.losses) == 29
