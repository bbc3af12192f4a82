"""Cross-entropy in pieces, against torch's in one piece."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.data.batches import IGNORE
from lab.training import loss as loss_module
from lab.training.loss import summed_cross_entropy

N, C, V = 23, 8, 37


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five positions at a time, so that 23 of them take five pieces, the last one shorter."""
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", 5 * V)


def made(dtype: torch.dtype = torch.float32, ignored: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [N, C], weight [V, C], labels [N], of which `ignored` do not count."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(0, V, (N,), generator=generator)
    labels[:ignored] = IGNORE
    return hidden, weight, labels


def reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORE, reduction="sum")


def test_value_and_gradients_equal_torchs_in_fp32() -> None:
    hidden, weight, labels = made()
    ours, theirs = summed_cross_entropy(hidden, weight, labels), reference(hidden, weight, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    for got, wanted in zip(
        torch.autograd.grad(ours / 7, (hidden, weight)), torch.autograd.grad(theirs / 7, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_pass_torchs_own_numerical_check_in_float64() -> None:
    hidden, weight, labels = made(torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: summed_cross_entropy(h, w, labels), (hidden, weight))


def test_float64_agrees_to_fourteen_digits() -> None:
    hidden, weight, labels = made(torch.float64)
    torch.testing.assert_close(
        summed_cross_entropy(hidden, weight, labels), reference(hidden, weight, labels), rtol=1e-14, atol=0
    )


def test_batch_and_position_axes_may_stay() -> None:
    hidden, weight, labels = made(ignored=0)
    flat = summed_cross_entropy(hidden[:20], weight, labels[:20])
    assert torch.equal(summed_cross_entropy(hidden[:20].view(4, 5, C), weight, labels[:20].view(4, 5)), flat)


def test_pieces_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, labels = made()
    in_pieces = summed_cross_entropy(hidden, weight, labels)
    monkeypatch.setattr(loss_module, "_LOGITS_AT_ONCE", 1 << 24)
    torch.testing.assert_close(in_pieces, summed_cross_entropy(hidden, weight, labels), rtol=1e-6, atol=0)


def test_ignored_labels_count_neither_in_the_loss_nor_in_any_gradient() -> None:
    hidden, weight, labels = made(ignored=6)
    loss = summed_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(loss, reference(hidden[6:], weight, labels[6:]), rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(grad[:6], torch.zeros(6, C))


def test_only_ignored_labels_are_a_loss_of_zero() -> None:
    hidden, weight, labels = made(ignored=N)
    loss = summed_cross_entropy(hidden, weight, labels)
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0
    assert all(not grad.any() for grad in grads)


def test_frozen_output_layer_gets_no_gradient_and_the_stream_the_right_one() -> None:
    hidden, weight, labels = made()
    frozen = weight.detach()
    loss = summed_cross_entropy(hidden, frozen, labels)
    loss.backward()
    torch.testing.assert_close(hidden.grad, torch.autograd.grad(reference(hidden, frozen, labels), hidden)[0])
    assert frozen.grad is None


def test_only_the_output_layer_may_train() -> None:
    hidden, weight, labels = made()
    still = hidden.detach()
    summed_cross_entropy(still, weight, labels).backward()
    torch.testing.assert_close(weight.grad, torch.autograd.grad(reference(still, weight, labels), weight)[0])


def test_without_gradients_the_value_is_the_same_to_the_bit() -> None:
    hidden, weight, labels = made()
    with torch.no_grad():
        alone = summed_cross_entropy(hidden, weight, labels)
    assert torch.equal(alone, summed_cross_entropy(hidden, weight, labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_agree_with_autocast_torch_to_their_precision(dtype: torch.dtype) -> None:
    hidden, weight, labels = made()
    with torch.autocast("cpu", dtype=dtype):
        ours = summed_cross_entropy(hidden, weight, labels)
        theirs = F.cross_entropy(
            F.linear(hidden, weight).float(), labels, ignore_index=IGNORE, reduction="sum"
        )  # fmt: skip
    precision = torch.finfo(dtype).eps
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=2 * precision, atol=0)
    exact = torch.autograd.grad(reference(hidden, weight, labels), (hidden, weight))
    for got, wanted in zip(torch.autograd.grad(ours, (hidden, weight)), exact, strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() <= 4 * precision * wanted.norm()


def test_huge_logits_stay_finite() -> None:
    hidden, weight, labels = made()
    loss = summed_cross_entropy(hidden * 1e4, weight, labels)
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, reference(hidden * 1e4, weight, labels))
