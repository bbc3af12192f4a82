"""Dropout without the generator that all threads share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from lab.config import GPTConfig
from lab.data.batches import MicroBatch
from lab.models.gpt import build_gpt
from lab.training.dropout import DropoutClock, SeededDropout, seed_dropout
from lab.training.loss import summed_cross_entropy


def mask(p: float = 0.25, name: str = "here", shape: tuple[int, ...] = (200, 500), **clock: int) -> Tensor:
    return SeededDropout(p, name, DropoutClock(**{"seed": 1, **clock}))(torch.ones(shape))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p_and_the_rest_makes_up_for_it(p: float) -> None:
    out = mask(p)
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=0.006)  # 4 standard deviations of 100,000 draws
    assert torch.equal(out[out != 0].unique(), torch.tensor([1 / (1 - p)]))
    assert out.mean().item() == pytest.approx(1, abs=0.006 / (1 - p))


def test_gradient_passes_where_the_value_passed() -> None:
    x = torch.ones(1_000, requires_grad=True)
    out = SeededDropout(0.5, "here", DropoutClock(1))(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_same_place_and_time_is_the_same_mask() -> None:
    assert torch.equal(mask(step=3, micro_step=1), mask(step=3, micro_step=1))


@pytest.mark.parametrize("other", [{"step": 1}, {"micro_step": 1}, {"seed": 2}, {"name": "there"}])
def test_another_step_micro_step_seed_or_module_is_another_mask(other: dict) -> None:
    """Two independent masks at 25 % agree in 62.5 % of places."""
    agreement = ((mask() == 0) == (mask(**other) == 0)).float().mean().item()
    assert agreement == pytest.approx(0.625, abs=0.01)


def test_evaluation_and_p_zero_leave_the_input_alone() -> None:
    x = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    assert SeededDropout(0.5, "here", DropoutClock(1)).eval()(x) is x
    assert SeededDropout(0.0, "here", DropoutClock(1))(x) is x


def test_bf16_stays_bf16() -> None:
    assert SeededDropout(0.5, "here", DropoutClock(1))(torch.ones(9, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_every_dropout_of_a_model_is_replaced_and_has_a_mask_of_its_own() -> None:
    model = build_gpt(config(), seed=0)
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    clock = seed_dropout(model, 7)
    seeded = {name: module for name, module in model.named_modules() if isinstance(module, SeededDropout)}
    assert seeded.keys() == names
    assert len(names) == 1 + 3 * 2
    assert {module.name for module in seeded.values()} == names
    assert all(module.clock is clock for module in seeded.values())
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())


def config(drop_rate: float = 0.2, attention_drop_rate: float = 0.1) -> GPTConfig:
    return GPTConfig(
        vocab_size=31,
        context_length=16,
        emb_dim=16,
        n_layers=2,
        n_heads=2,
        drop_rate=drop_rate,
        attention_drop_rate=attention_drop_rate,
    )


def loss_and_gradients(
    *, gradient_checkpointing: bool = False, step: int = 5, precision: torch.dtype | None = None
) -> tuple[float, dict[str, Tensor]]:
    model = build_gpt(config(), seed=0, gradient_checkpointing=gradient_checkpointing)
    seed_dropout(model, 7).step = step
    ids = torch.randint(0, 31, (4, 17), generator=torch.Generator().manual_seed(0))
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        loss = summed_cross_entropy(model.hidden(batch.inputs), model.out_head.weight, batch.labels)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_equal(left: tuple[float, dict[str, Tensor]], right: tuple[float, dict[str, Tensor]]) -> None:
    assert left[0] == right[0]
    assert all(torch.equal(left[1][name], right[1][name]) for name in right[1])


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_gradient_checkpointing_on_equals_off_to_the_bit_with_dropout(precision: torch.dtype | None) -> None:
    on = loss_and_gradients(gradient_checkpointing=True, precision=precision)
    assert_equal(on, loss_and_gradients(precision=precision))


def test_dropout_does_something_in_that_comparison() -> None:
    assert loss_and_gradients(step=5)[0] != loss_and_gradients(step=6)[0]


@contextmanager
def noise() -> Iterator[None]:
    """Threads that draw from torch's default generator, and reseed it, as fast as they can."""
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.manual_seed(0)
            nn.Linear(8, 8)
            torch.rand(100)

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_masks_are_the_same_while_other_threads_draw_from_the_default_generator(gradient_checkpointing: bool) -> None:
    quiet = loss_and_gradients()
    with noise():
        for _ in range(5):
            assert_equal(loss_and_gradients(gradient_checkpointing=gradient_checkpointing), quiet)


def test_default_generator_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    loss_and_gradients(gradient_checkpointing=True)
    assert torch.equal(torch.get_rng_state(), before)
