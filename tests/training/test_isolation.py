"""A training run shares its process with pages that load and sample other models. Its numbers are its own."""

from pathlib import Path

import pytest
import torch

from lab.models.gpt import build_gpt
from tests.training.helpers import Trained, assert_same_tensors, small, train
from tests.training.noise import (
    beside,
    draw_random_numbers,
    flip_the_default_dtype,
    load_llama_and_sample,
    save_llama,
)

ALL_OF_IT = {
    "max_steps": 12, "eval_every": 4, "drop_rate": 0.1, "attention_drop_rate": 0.1, "sample_tokens": 4,
    "grad_accum_steps": 2, "context_length": 32, "emb_dim": 64,
}  # fmt: skip
"""Dropout, accumulation, evaluations and samples; matrices large enough to have an 8-bit state."""


def assert_same_run(left: Trained, right: Trained) -> None:
    assert left.outcome.error is None
    assert right.outcome.error is None
    assert left.rows.learned() == right.rows.learned()
    assert left.rows.tables["samples"] == right.rows.tables["samples"]
    assert_same_tensors(left.tensors(), right.tensors())


def test_same_config_trains_to_the_same_bits_twice() -> None:
    assert_same_run(train(small(**ALL_OF_IT)), train(small(**ALL_OF_IT)))


def test_torchs_default_generator_is_not_moved_by_a_run() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(small(**ALL_OF_IT, gradient_checkpointing=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_default_generator_is_not_read_by_a_run() -> None:
    torch.manual_seed(5)
    left = train(small(**ALL_OF_IT))
    torch.manual_seed(6)
    assert_same_run(left, train(small(**ALL_OF_IT)))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_threads_that_draw_from_the_default_generator_change_nothing(
    optimizer: str, gradient_checkpointing: bool
) -> None:
    config = small(**ALL_OF_IT, optimizer=optimizer, gradient_checkpointing=gradient_checkpointing)
    quiet = train(config)
    with beside(draw_random_numbers):
        assert_same_run(train(config), quiet)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_default_dtype_flipped_by_another_thread_changes_nothing(precision: str, optimizer: str) -> None:
    config = small(**ALL_OF_IT, precision=precision, optimizer=optimizer)
    quiet = train(config)
    try:
        with beside(flip_the_default_dtype):
            assert_same_run(train(config), quiet)
    finally:
        torch.set_default_dtype(torch.float32)


def test_first_weights_are_fp32_whatever_the_default_dtype_is() -> None:
    shape = small(vocab_size=40).model
    expected = build_gpt(shape, seed=1).state_dict()
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = build_gpt(shape, seed=1).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_tensors(made, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loading_a_hugging_face_model_in_bf16_and_sampling_from_it_changes_nothing(
    precision: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    save_llama(tmp_path / "llama")
    config = small(**{**ALL_OF_IT, "max_steps": 60}, precision=precision)
    quiet, rounds = train(config), []
    with beside(lambda: load_llama_and_sample(tmp_path / "llama"), rounds=rounds):
        disturbed = train(config)
    assert rounds[0] >= 1
    assert_same_run(disturbed, quiet)
