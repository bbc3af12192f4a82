"""Counting from the shape alone gives what the real model, a real optimizer and a real step have."""

import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lab.config import PRESETS, GPTConfig
from lab.models.gpt import GPTModel, build_gpt
from lab.models.parts import parameter_counts, state_bytes, tensors, training_flops_per_token

SHAPES = {
    "plain": GPTConfig(vocab_size=300, context_length=24, emb_dim=48, n_layers=2, n_heads=4),
    "with query, key and value bias": GPTConfig(
        vocab_size=300, context_length=24, emb_dim=48, n_layers=2, n_heads=4, qkv_bias=True
    ),
    "tied": GPTConfig(vocab_size=300, context_length=24, emb_dim=48, n_layers=3, n_heads=2, tie_embeddings=True),
    **{name: preset.model for name, preset in PRESETS.items()},
}
SMALL_SHAPES = ["plain", "with query, key and value bias", "tied", "pocket"]


@pytest.mark.parametrize("name", SHAPES)
def test_the_list_of_tensors_is_the_models_own(name: str) -> None:
    with torch.device("meta"):
        model = GPTModel(SHAPES[name])
    listed = {tensor.name: tensor.shape for tensor in tensors(SHAPES[name])}
    assert listed == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", SHAPES)
def test_counts_by_part_add_up_to_the_models_real_count(name: str) -> None:
    with torch.device("meta"):
        model = GPTModel(SHAPES[name])
    counts = parameter_counts(SHAPES[name])
    total = counts.pop("total")
    assert total == sum(counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    blocks = model.trf_blocks
    assert counts["attention"] == sum(p.numel() for block in blocks for p in block.att.parameters())
    assert counts["feed_forward"] == sum(p.numel() for block in blocks for p in block.ff.parameters())
    assert counts["norms"] == sum(p.numel() for n, p in model.named_parameters() if "norm" in n)


@pytest.mark.parametrize(
    ("preset", "total"), [("pocket", 816_640), ("nano", 30_531_584), ("small", 76_933_120), ("medium", 124_439_808)]
)
def test_presets_have_the_totals_that_a_pocket_calculator_gives(preset: str, total: int) -> None:
    """nano: 2 · 50,257 · 256 for both ends, 256 · 256 positions, six blocks of 12 · 256² + 10 · 256, and 2 · 256.
    medium: GPT-2 small's published total; test_gpt2_weights asks transformers for it."""
    assert parameter_counts(PRESETS[preset].model)["total"] == total


@pytest.mark.parametrize("name", SMALL_SHAPES)
def test_flops_per_token_are_what_torch_counts_in_a_forward_and_backward_pass(name: str) -> None:
    config = SHAPES[name]
    model = build_gpt(config, seed=0, attention_impl="manual")  # the fused kernel skips the masked half
    ids = torch.zeros(2, config.context_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert counter.get_total_flops() == training_flops_per_token(config) * ids.numel()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of memory behind the tensors; memory that several share counts once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def after_one_step(config: GPTConfig, make: type[torch.optim.Optimizer]) -> tuple[GPTModel, torch.optim.Optimizer]:
    model = build_gpt(config, seed=0)
    optimizer = make(model.parameters(), lr=1e-3)
    model(torch.zeros(1, 4, dtype=torch.int64)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


@pytest.mark.parametrize("name", SMALL_SHAPES)
def test_bytes_with_adamw_are_those_of_torchs_own_after_a_step(name: str) -> None:
    model, optimizer = after_one_step(SHAPES[name], torch.optim.AdamW)
    weights = list(model.parameters())
    expected = state_bytes(SHAPES[name], "adamw")
    assert expected["weights"] == bytes_of(weights)
    assert expected["gradients"] == bytes_of(p.grad for p in weights if p.grad is not None)
    assert expected["optimizer"] == bytes_of(state_tensors(optimizer))
    assert expected["total"] == expected["weights"] + expected["gradients"] + expected["optimizer"]


@pytest.mark.parametrize("name", SMALL_SHAPES)
def test_bytes_with_8_bit_adamw_are_those_of_bitsandbytes_after_a_step(name: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes for the 8-bit optimizer")
    _, optimizer = after_one_step(SHAPES[name], bitsandbytes.optim.AdamW8bit)
    assert state_bytes(SHAPES[name], "adamw_8bit")["optimizer"] == bytes_of(state_tensors(optimizer))


def test_8_bit_adamw_keeps_tensors_below_4096_elements_in_32_bits() -> None:
    tiny = GPTConfig(vocab_size=16, context_length=4, emb_dim=16, n_layers=1, n_heads=1)  # its largest has 1,024
    assert state_bytes(tiny, "adamw_8bit")["optimizer"] == 8 * parameter_counts(tiny)["total"]


def test_counting_loads_no_torch() -> None:
    """The form shows these figures before torch is needed."""
    code = "import sys, lab.models.parts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
