"""An optimizer step is one step, whatever it is cut into."""

import pytest
import torch
from torch import Tensor, nn

from lab.data.batches import IGNORE, MicroBatch
from lab.training.trainer import Trainer
from tests.training.helpers import GivenBatches, small, trainer_for

VOCABULARY = 40
CONTEXT = 16


def windows(n: int, ignored: dict[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """inputs and labels int64 [n, CONTEXT]; of window i the first `ignored[i]` labels do not count."""
    ids = torch.randint(0, VOCABULARY, (n, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    labels = ids[:, 1:].clone()
    for window, count in (ignored or {}).items():
        labels[window, :count] = IGNORE
    return ids[:, :-1].contiguous(), labels


def cut(inputs: Tensor, labels: Tensor, sizes: list[int]) -> list[MicroBatch]:
    pieces = zip(inputs.split(sizes), labels.split(sizes), strict=True)
    return [MicroBatch(i.contiguous(), t.contiguous()) for i, t in pieces]


class Watched:
    """One training step over given micro-batches, with the gradients that the optimizer got and what was called."""

    def __init__(
        self, micro_batches: list[MicroBatch], monkeypatch: pytest.MonkeyPatch, precision: str = "fp32", **knobs
    ):
        trainer = trainer_for(small(max_steps=1, **knobs), GivenBatches(micro_batches), precision=precision)
        self.calls: list[str] = []
        self.gradients: dict[str, Tensor] = {}
        self._watch(trainer, monkeypatch)
        trainer.train()
        self.loss = trainer.recorder.metric("train/loss")[1]
        self.length = trainer.recorder.metric("train/grad_norm")[1]
        self.tokens_seen = trainer.progress.tokens_seen

    def _watch(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        step, clip = trainer.optimizer.step, nn.utils.clip_grad_norm_
        unscale = trainer.scaler.unscale_

        def watched_step(*args, **kwargs):
            self.calls.append("step")
            self.gradients = {name: p.grad.clone() for name, p in trainer.task.model.named_parameters()}
            return step(*args, **kwargs)

        def watched_clip(*args, **kwargs):
            self.calls.append("clip")
            return clip(*args, **kwargs)

        def watched_unscale(optimizer):
            self.calls.append("unscale")
            return unscale(optimizer)

        monkeypatch.setattr(trainer.optimizer, "step", watched_step)
        monkeypatch.setattr(trainer.scaler, "unscale_", watched_unscale)
        monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched_clip)


def difference(left: Watched, right: Watched) -> float:
    """Largest difference of any gradient entry, relative to the largest entry of that gradient."""
    return max(
        ((left.gradients[name] - right.gradients[name]).abs().max() / right.gradients[name].abs().max()).item()
        for name in right.gradients
    )


@pytest.mark.parametrize("sizes", [[3, 3], [2, 2, 2], [1] * 6])
def test_accumulation_of_k_batches_equals_one_big_batch(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = windows(6)
    one, many = Watched(cut(*data, [6]), monkeypatch), Watched(cut(*data, sizes), monkeypatch)
    assert difference(many, one) <= 1e-6
    assert many.loss == pytest.approx(one.loss, rel=1e-6)


def test_it_does_so_with_unequal_label_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the micro-batches' means would be wrong by far: here they have 16, 17 and 31 labels."""
    data = windows(6, ignored={0: 15, 1: 1, 2: 15, 3: 0, 4: 1, 5: 0})
    one, many = Watched(cut(*data, [6]), monkeypatch), Watched(cut(*data, [2, 2, 2]), monkeypatch)
    assert [batch.n_labels for batch in cut(*data, [2, 2, 2])] == [16, 17, 31]
    assert difference(many, one) <= 1e-6
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.tokens_seen == one.tokens_seen == 64


def test_micro_batch_without_any_label_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = windows(4, ignored={2: CONTEXT, 3: CONTEXT})
    alone = Watched(cut(inputs[:2], labels[:2], [2]), monkeypatch)
    with_empty = Watched(cut(inputs, labels, [2, 2]), monkeypatch)
    assert difference(with_empty, alone) == 0
    assert with_empty.loss == alone.loss


def test_one_clip_and_one_step_per_accumulated_update(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(cut(*windows(6), [2, 2, 2]), monkeypatch).calls == ["unscale", "clip", "step"]


def test_clipping_scales_the_whole_gradient_to_the_length_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    free = Watched(cut(*windows(4), [2, 2]), monkeypatch, grad_clip=0.0)
    clipped = Watched(cut(*windows(4), [2, 2]), monkeypatch, grad_clip=0.1)
    length = torch.stack([gradient.norm() for gradient in clipped.gradients.values()]).norm()
    assert length.item() == pytest.approx(0.1, rel=1e-4)
    assert free.length == clipped.length > 0.1, "the recorded length is the one before clipping"
    for name, gradient in free.gradients.items():
        torch.testing.assert_close(clipped.gradients[name], gradient * 0.1 / free.length, rtol=1e-4, atol=1e-9)


def test_short_gradient_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    free = Watched(cut(*windows(4), [4]), monkeypatch, grad_clip=0.0)
    assert difference(Watched(cut(*windows(4), [4]), monkeypatch, grad_clip=1e6), free) == 0


def test_fp16_unscales_before_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipped while still multiplied by 65,536, every gradient would be far too long and shrink to almost nothing."""
    exact = Watched(cut(*windows(4), [2, 2]), monkeypatch, grad_clip=0.1)
    scaled = Watched(cut(*windows(4), [2, 2]), monkeypatch, precision="fp16", grad_clip=0.1)
    assert scaled.calls == ["unscale", "clip", "step"]
    assert scaled.length == pytest.approx(exact.length, rel=0.01)
    length = torch.stack([gradient.norm() for gradient in scaled.gradients.values()]).norm()
    assert length.item() == pytest.approx(0.1, rel=0.01)
    assert difference(scaled, exact) < 0.05


def test_each_micro_batch_has_dropout_masks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same windows twice in one step, and again in the next: four different losses."""
    twice = cut(*windows(2), [2]) * 2
    trainer = trainer_for(small(max_steps=2, drop_rate=0.3, learning_rate=1e-12), GivenBatches(twice))
    loss_sum, seen = trainer.task.loss_sum, []

    def watched(batch: MicroBatch) -> Tensor:
        loss = loss_sum(batch)
        if trainer.task.model.training:
            seen.append(loss.item())
        return loss

    monkeypatch.setattr(trainer.task, "loss_sum", watched)
    trainer.train()
    assert len(seen) == len(set(seen)) == 4
