"""Sizes, shares and directions, on vectors worked by hand and on real captures."""

import math

import pytest
import torch

from lab.analysis.capture import capture
from lab.analysis.residual import compare_branches, cosine, layer_diff, layer_rows, norms, shares, stream_parts
from lab.errors import ModelError
from tests.tiny_models import some_ids, tiny, tiny_gpt


def point(*vectors: list[float]) -> torch.Tensor:
    """One layer, one text: [1, 1, pos, d_model]."""
    return torch.tensor(vectors)[None, None]


def test_the_norm_of_three_four_is_five() -> None:
    assert norms(torch.tensor([[3.0, 4.0]])).tolist() == [5.0]


def test_cosine_of_equal_right_angled_and_opposite_vectors() -> None:
    a = torch.tensor([[2.0, 0.0]] * 3)
    assert cosine(a, torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).tolist() == [1.0, 0.0, -1.0]


def test_cosine_with_nothing_is_undefined() -> None:
    assert math.isnan(cosine(torch.ones(1, 2), torch.zeros(1, 2)))


def test_shares_by_hand() -> None:
    """(3, 0) + (0, 4) = (3, 4): 9/25 and 16/25 of its length come from each."""
    assert shares(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist() == pytest.approx([0.36, 0.64])


def test_a_part_that_works_against_the_sum_has_a_negative_share() -> None:
    assert shares(torch.tensor([[3.0], [-1.0]])).tolist() == [1.5, -0.5]


@pytest.mark.parametrize("name", ["lab", "llama", "gemma2", "neox"])
def test_embedding_and_branches_add_up_to_the_stream_and_their_shares_to_one(name: str) -> None:
    found = capture(tiny_gpt() if name == "lab" else tiny(name), some_ids())
    names, parts = stream_parts(*(found.residual[p] for p in ("pre_attn", "delta_attn", "delta_ffn")))
    assert names[:3] == ["embedding", "attention 0", "feed-forward 0"]
    assert len(names) == len(parts) == 7
    torch.testing.assert_close(parts.sum(0), found.residual["post_ffn"][-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shares(parts).sum(0), torch.ones(2, 12))


def test_layer_diff_keeps_attention_and_feed_forward_apart() -> None:
    """Attention turns (1, 0) into (1, 1); the feed-forward doubles that: 45° and nothing, then 0° and twice."""
    diff = layer_diff(
        {
            "pre_attn": point([1.0, 0.0]),
            "delta_attn": point([0.0, 1.0]),
            "post_attn": point([1.0, 1.0]),
            "delta_ffn": point([1.0, 1.0]),
        }
    )
    attention, feed_forward = diff.attention, diff.feed_forward
    assert (attention.length.item(), attention.relative.item(), attention.cosine.item()) == (1, 1, 0)
    assert attention.turned.item() == pytest.approx(45)
    assert feed_forward.length.item() == pytest.approx(math.sqrt(2))
    assert feed_forward.relative.item() == pytest.approx(1)
    assert feed_forward.cosine.item() == pytest.approx(1)
    assert feed_forward.turned.item() == pytest.approx(0)


def test_a_layer_whose_feed_forward_is_silent_shows_it_in_that_branch_only() -> None:
    model = tiny_gpt()
    with torch.no_grad():
        model.trf_blocks[1].ff.layers[2].weight.zero_()
        model.trf_blocks[1].ff.layers[2].bias.zero_()
    diff = layer_diff(capture(model, some_ids()).residual)
    assert diff.feed_forward.length[1] == 0
    assert diff.feed_forward.turned[1] == 0
    assert (diff.feed_forward.length[[0, 2]] > 0).all()
    assert (diff.attention.length > 0).all()


def test_a_turn_of_a_millionth_degree_is_not_lost() -> None:
    residual = {"pre_attn": point([1.0, 0.0]), "delta_attn": point([0.0, 1e-8]), "post_attn": point([1.0, 1e-8])}
    diff = layer_diff({**residual, "delta_ffn": point([0.0, 0.0])})
    assert diff.attention.turned.item() == pytest.approx(math.degrees(1e-8), rel=1e-3)


def test_rows_for_the_record_hold_three_lengths_and_four_figures_of_each_branch() -> None:
    residual = capture(tiny_gpt(), some_ids()).residual
    rows = {(row["point"], row["name"], row["layer"]): row["value"] for row in layer_rows(residual)}
    assert len(rows) == 3 * (3 + 2 * 4)
    assert rows["post_ffn", "length", 2] == pytest.approx(norms(residual["post_ffn"])[2].mean().item())
    assert rows["delta_ffn", "cosine", 1] == pytest.approx(layer_diff(residual).feed_forward.cosine[1].item())


def test_the_same_model_changes_nothing_and_a_changed_branch_shows_first_where_it_was_changed() -> None:
    model, ids = tiny_gpt(), some_ids()
    before = capture(model, ids).residual
    same = compare_branches(before, capture(model, ids).residual)
    assert not same.attention.any()
    assert not same.feed_forward.any()
    with torch.no_grad():
        model.trf_blocks[1].ff.layers[2].weight.mul_(1.1)
    after = compare_branches(before, capture(model, ids).residual)
    assert after.attention[:2].tolist() == [0, 0]  # what comes before the change is as it was
    assert after.feed_forward[0] == 0
    assert after.feed_forward[1] > 0.01
    assert after.attention[2] > 0  # and what comes after reads something else


def test_captures_of_different_shapes_are_not_compared() -> None:
    with pytest.raises(ModelError, match=r"\(3, 2, 12, 32\), the other \(3, 2, 8, 32\)"):
        compare_branches(capture(tiny_gpt(), some_ids()).residual, capture(tiny_gpt(), some_ids(2, 8)).residual)
