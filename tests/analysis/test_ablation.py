"""Heads switched off: what changes, and what must not."""

import math

import pytest
import torch

from lab.analysis.ablation import ablate, head_importance
from lab.errors import DataError, ModelError
from lab.models.families import Anatomy, anatomy
from tests.tiny_models import some_ids, tiny, tiny_gpt


def opened(name: str) -> Anatomy:
    return anatomy(tiny_gpt() if name == "lab" else tiny(name))


def test_without_heads_switched_off_nothing_changes() -> None:
    result = ablate(opened("lab"), some_ids(), [])
    assert torch.equal(result.loss_before, result.loss_after)
    assert result.loss_change == 0


def test_losses_are_torchs_cross_entropy() -> None:
    parts, ids = opened("llama"), some_ids()
    result = ablate(parts, ids, [(0, 1)])
    with torch.no_grad():
        logits = parts(ids)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(result.loss_before, expected)
    torch.testing.assert_close(result.next_before, logits[:, -1].softmax(-1))


@pytest.mark.parametrize("name", ["lab", "gpt2"])
def test_a_head_switched_off_is_a_head_whose_columns_in_the_mixer_are_zero(name: str) -> None:
    parts, ids = opened(name), some_ids()
    result = ablate(parts, ids, [(1, 2)])
    mixer = parts.blocks[1].heads_meet
    with torch.no_grad():
        side = mixer.weight if name == "lab" else mixer.weight.T  # GPT-2 stores its matrix the other way round
        side[:, 16:24] = 0
        logits = parts(ids)
    torch.testing.assert_close(result.next_after, logits[:, -1].softmax(-1))


@pytest.mark.parametrize("replace_by", ["zero", "mean"])
def test_a_head_that_writes_nothing_can_be_missed(replace_by: str) -> None:
    model, ids = tiny_gpt(), some_ids()
    with torch.no_grad():
        model.trf_blocks[1].att.out_proj.weight[:, 8:16] = 0
    change = head_importance(anatomy(model), ids, replace_by=replace_by)  # type: ignore[arg-type]
    assert change.shape == (3, 4)
    assert change[1, 1].item() == pytest.approx(0, abs=1e-6)
    assert change.abs().min(dim=1).values[0] > 0


def test_a_head_that_always_says_the_same_is_replaced_by_its_mean_without_loss() -> None:
    """Values are all bias, so what the head fetched does not depend on where it looked."""
    model, ids = tiny_gpt(), some_ids()
    with torch.no_grad():
        model.trf_blocks[0].att.W_value.weight[8:16] = 0
    by_mean = ablate(anatomy(model), ids, [(0, 1)], replace_by="mean")
    by_zero = ablate(anatomy(model), ids, [(0, 1)])
    assert by_mean.loss_change == pytest.approx(0, abs=1e-6)
    assert abs(by_zero.loss_change) > 1e-3


def test_the_biggest_changes_of_the_next_token_come_first() -> None:
    result = ablate(opened("lab"), some_ids(), [(2, head) for head in range(4)])
    changes = result.biggest_changes(3)
    sizes = [abs(after - before) for _, before, after in changes]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx((result.next_after - result.next_before)[0].abs().max().item())


def test_importance_is_the_change_of_loss_of_each_head_alone() -> None:
    parts, ids = opened("gemma2"), some_ids()
    change = head_importance(parts, ids)
    assert change[1, 3].item() == pytest.approx(ablate(parts, ids, [(1, 3)]).loss_change, abs=1e-5)


def test_a_single_token_has_a_next_token_but_no_loss() -> None:
    result = ablate(opened("lab"), some_ids(1, 1), [(0, 0)])
    assert math.isnan(result.loss_change)
    assert result.next_after.sum().item() == pytest.approx(1)
    with pytest.raises(DataError, match="one token has no loss"):
        head_importance(opened("lab"), some_ids(1, 1))


@pytest.mark.parametrize("replace_by", ["zero", "mean"])
def test_a_head_that_does_not_exist_is_named(replace_by: str) -> None:
    with pytest.raises(ModelError, match="no head 4"):
        ablate(opened("lab"), some_ids(), [(0, 4)], replace_by=replace_by)  # type: ignore[arg-type]
