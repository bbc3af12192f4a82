"""A logit taken apart adds up to the logit, on every family."""

import pytest
import torch
from torch import Tensor, nn

from lab.analysis.attribution import attribute, head_writes
from lab.analysis.capture import Capture, capture
from lab.analysis.readout import freeze_norm
from lab.analysis.recording import record_heads
from lab.analysis.residual import stream_parts
from lab.errors import ModelError
from lab.models.families import Anatomy, anatomy
from tests.tiny_models import CONFIGS, some_ids, tiny, tiny_gpt

FAMILIES = [*CONFIGS, "lab"]
POINTS = ("pre_attn", "delta_attn", "delta_ffn")


def opened(name: str) -> tuple[Anatomy, Capture]:
    parts = anatomy(tiny_gpt() if name == "lab" else tiny(name))
    return parts, capture(parts, some_ids())


def uncapped(parts: Anatomy, logits: Tensor) -> Tensor:
    """The logits before Gemma 2's softcap."""
    return logits if parts.softcap is None else parts.softcap * torch.atanh(logits.double() / parts.softcap)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", FAMILIES)
def test_contributions_of_embedding_and_branches_sum_to_the_logit(name: str) -> None:
    parts, found = opened(name)
    _, additions = stream_parts(*(found.residual[p] for p in POINTS))
    token = found.logits.argmax(-1)
    result = attribute(parts, additions, found.residual["post_ffn"][-1], token)
    assert result.values.shape == (7, 2, 12)
    logit = uncapped(parts, found.logits.gather(-1, token[..., None])[..., 0])
    assert relative_error(result.total, logit) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_contributions_of_heads_sum_to_what_their_layer_contributed_and_with_the_rest_to_the_logit(name: str) -> None:
    parts, found = opened(name)
    final = found.residual["post_ffn"][-1]
    additions = [found.residual["pre_attn"][0], *found.residual["delta_ffn"]]
    for block, fetched, delta in zip(
        parts.blocks, record_heads(parts, found.ids), found.residual["delta_attn"], strict=True
    ):
        heads, rest = head_writes(block, fetched, delta=delta)
        together = attribute(parts, delta[None], final, 5).values[0]
        apart = attribute(parts, torch.cat([heads, rest[None].to(heads)]), final, 5).values
        assert apart.shape == (5, 2, 12)
        assert relative_error(apart.sum(0), together) <= 1e-5
        additions += [*heads, rest]
    result = attribute(parts, torch.stack([a.double() for a in additions]), final, 5)
    assert relative_error(result.total, uncapped(parts, found.logits[..., 5])) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_in_bf16_heads_still_add_up_to_what_was_captured_and_contributions_to_the_logit(name: str) -> None:
    """Within the roundings of 16 bits: one in 256 of the largest addition each."""
    parts = anatomy((tiny_gpt() if name == "lab" else tiny(name)).to(torch.bfloat16))
    found = capture(parts, some_ids())
    for block, fetched, delta in zip(
        parts.blocks, record_heads(parts, found.ids), found.residual["delta_attn"], strict=True
    ):
        head_writes(block, fetched, delta=delta)
    _, additions = stream_parts(*(found.residual[p] for p in POINTS))
    result = attribute(parts, additions, found.residual["post_ffn"][-1], 5)
    assert relative_error(result.total, uncapped(parts, found.logits[..., 5])) <= 0.05


def test_a_difference_of_two_tokens_is_the_difference_of_their_attributions() -> None:
    parts, found = opened("llama")
    _, additions = stream_parts(*(found.residual[p] for p in POINTS))
    final = found.residual["post_ffn"][-1]
    one, other = (attribute(parts, additions, final, token) for token in (3, 9))
    difference = attribute(parts, additions, final, 3, against=9)
    assert torch.allclose(difference.values, one.values - other.values)
    assert torch.allclose(difference.total, (found.logits[..., 3] - found.logits[..., 9]).double(), atol=1e-5)


def test_an_addition_of_zero_contributes_nothing() -> None:
    parts, found = opened("lab")
    final = found.residual["post_ffn"][-1]
    assert not attribute(parts, torch.zeros_like(final)[None], final, 3).values.any()


def test_a_frozen_layer_norm_by_hand() -> None:
    """(3, 1) has mean 2 and deviation 1, so its norm is (1, −1); a part (2, 0) is (1, −1) about its own mean."""
    norm = nn.LayerNorm(2, eps=0.0)
    frozen = freeze_norm(norm, torch.tensor([[3.0, 1.0]]))
    assert frozen.linear(torch.tensor([[2.0, 0.0]])).tolist() == [[1.0, -1.0]]
    assert frozen.linear(torch.tensor([[1.0, 1.0]])).tolist() == [[0.0, 0.0]]


def test_a_norm_of_an_unknown_kind_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().sqrt()

    with pytest.raises(ModelError, match="Odd is neither LayerNorm nor RMSNorm"):
        freeze_norm(Odd(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))


def test_heads_that_do_not_add_up_to_what_was_captured_are_refused() -> None:
    parts, found = opened("lab")
    (fetched,) = record_heads(parts, found.ids, [0])
    with pytest.raises(ModelError, match="do not add up"):
        head_writes(parts.blocks[0], fetched, delta=found.residual["delta_attn"][0] + 0.01)


def test_an_output_layer_that_is_no_plain_matrix_is_refused() -> None:
    parts, found = opened("lab")
    wrapped = Anatomy(**{**vars(parts), "output": nn.Sequential(parts.output)})
    with pytest.raises(ModelError, match="Sequential, not a plain matrix"):
        attribute(wrapped, found.residual["delta_attn"][:1].squeeze(0)[None], found.residual["post_ffn"][-1], 3)
