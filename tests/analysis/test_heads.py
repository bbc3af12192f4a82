"""Head scores, against one-hot patterns built by hand."""

import math

import pytest
import torch
from torch import Tensor

from lab.analysis.heads import (
    as_rows,
    duplicate_token_score,
    head_difference,
    head_stats,
    induction_score,
    jensen_shannon,
    kv_groups,
    kv_head_of,
    offset_score,
    previous_token_score,
    ranked,
)
from lab.errors import ModelError
from tests.analysis.test_attention import looking_back, random_attention, uniform

REPEATED = torch.tensor([[5, 3, 8, 1, 5, 3, 8, 1]])
"""Four tokens, said twice."""
PLAIN = torch.arange(8)[None]


def heads(*patterns: Tensor) -> Tensor:
    """[1, 1, n, n] each -> one layer [1, head, n, n]."""
    return torch.cat(patterns, dim=1)


KNOWN = heads(looking_back(8, 1), looking_back(8, 4), looking_back(8, 3), looking_back(8, 0))
"""A previous-token head, a duplicate-token head, an induction head, and one that looks at itself."""


def test_scores_of_perfect_heads_are_one_and_of_the_others_zero() -> None:
    assert previous_token_score(KNOWN, REPEATED).values[[0, 3]].tolist() == [1, 0]
    assert duplicate_token_score(KNOWN, REPEATED).values.tolist() == [0, 1, 0, 0]
    assert induction_score(KNOWN, REPEATED).values.tolist() == [0, 0, 1, 0]


def test_previous_token_score_counts_a_head_that_finds_the_first_token_by_accident() -> None:
    """looking_back(3) stops at position 0, so query 1 looks one back: 1 of 7 queries."""
    assert previous_token_score(looking_back(8, 3), REPEATED).values.item() == pytest.approx(1 / 7)


def test_a_text_without_repeats_has_a_previous_token_score_but_no_induction_score() -> None:
    assert previous_token_score(KNOWN, PLAIN).values[0] == 1
    for score in (duplicate_token_score(KNOWN, PLAIN), induction_score(KNOWN, PLAIN)):
        assert score.n_queries == 0
        assert score.values.isnan().all()
        assert math.isnan(score.chance)


def test_on_plain_text_only_repeated_tokens_are_judged() -> None:
    """`a b c a d`: only the second a has an earlier place, and what followed it is key 1."""
    ids = torch.tensor([[0, 1, 2, 0, 3]])
    attention = uniform(5).clone()
    attention[0, 0, 3] = torch.tensor([0.1, 0.6, 0.1, 0.2, 0.0])
    score = induction_score(attention, ids)
    assert score.n_queries == 1
    assert score.values.item() == pytest.approx(0.6)
    assert duplicate_token_score(attention, ids).values.item() == pytest.approx(0.1)


def test_all_earlier_places_count_together() -> None:
    """`a b a c a`: the last a may look at b or at c."""
    ids = torch.tensor([[0, 1, 0, 2, 0]])
    attention = torch.zeros(1, 1, 5, 5)
    attention[0, 0, 4] = torch.tensor([0.0, 0.5, 0.1, 0.3, 0.1])
    attention[0, 0, 2] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    assert induction_score(attention, ids).values.item() == pytest.approx((1.0 + 0.8) / 2)


def test_looking_at_oneself_is_not_induction_even_where_a_token_is_said_twice_in_a_row() -> None:
    score = induction_score(looking_back(2, 0), torch.tensor([[4, 4]]))
    assert score.n_queries == 0


def test_chance_is_what_even_attention_gets() -> None:
    for score in (previous_token_score, duplicate_token_score, induction_score):
        result = score(uniform(8), REPEATED)
        assert result.values.item() == pytest.approx(result.chance)


def test_scores_take_all_layers_at_once() -> None:
    layers = torch.stack([random_attention(3, 4, 8, 8, seed=s) for s in range(2)])
    ids = REPEATED.expand(3, 8)
    together = induction_score(layers, ids).values
    assert together.shape == (2, 4)
    assert torch.allclose(together[1], induction_score(layers[1], ids).values)


def test_offset_score_is_the_induction_score_of_tokens_said_twice() -> None:
    assert offset_score(KNOWN, 3)[0, 2].item() == 1 == induction_score(KNOWN, REPEATED).values[2].item()


def test_offset_score_is_defined_without_repeats_and_undefined_beyond_the_text() -> None:
    assert offset_score(uniform(4), 1).item() == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert math.isnan(offset_score(uniform(4), 4).item())


def test_head_stats_have_one_figure_for_each_head_and_use_each_layers_window() -> None:
    layers = [uniform(8), uniform(8, window=3)]
    stats = head_stats(layers, REPEATED, windows=[None, 3])
    assert {name: tuple(values.shape) for name, values in stats.items()} == dict.fromkeys(
        ["entropy", "distance", "sink", "previous_token", "duplicate_token", "induction"], (2, 1)
    )
    assert stats["entropy"].flatten().tolist() == pytest.approx([1.0, 1.0])


def test_head_stats_agree_with_the_single_scores() -> None:
    stats = head_stats([KNOWN], REPEATED)
    assert stats["induction"][0].tolist() == [0, 0, 1, 0]
    assert stats["previous_token"][0, 0] == 1
    assert stats["distance"][0, 3] == 0


def test_a_text_of_one_token_has_a_distance_and_nothing_else_to_judge() -> None:
    stats = head_stats([torch.ones(1, 2, 1, 1)], torch.tensor([[3]]))
    assert stats.pop("distance").tolist() == [[0, 0]]
    assert all(values.isnan().all() for values in stats.values())
    assert ranked(stats["induction"]) == []


def test_heads_are_ranked_largest_first_and_those_without_a_value_left_out() -> None:
    order = ranked(torch.tensor([[0.1, math.nan], [0.9, 0.5]]))
    assert [(h.layer, h.head) for h in order] == [(1, 0), (1, 1), (0, 0)]
    assert [(h.layer, h.head) for h in ranked(torch.tensor([[0.1, 0.9]]), lowest_first=True)] == [(0, 0), (0, 1)]


def test_rows_for_the_record_hold_finite_figures_only() -> None:
    rows = list(as_rows({"induction": torch.tensor([[0.5, math.nan]])}))
    assert rows == [{"layer": 0, "head": 0, "name": "induction", "value": 0.5}]


# -- differences -----------------------------------------------------------------------------------------


def test_a_row_differs_from_itself_by_exactly_zero() -> None:
    attention = random_attention(2, 3, 9, 9)
    assert torch.equal(jensen_shannon(attention, attention), torch.zeros(2, 3, 9))


def test_disjoint_rows_differ_by_one_bit() -> None:
    assert jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx(1.0)


def test_jensen_shannon_of_a_sure_and_an_even_row_by_hand() -> None:
    """m = (3/4, 1/4): ½ · log2(4/3) + ½ · (½ log2(2/3) + ½ log2 2) = 0.3113 bits."""
    value = jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])).item()
    assert value == pytest.approx(0.311278, abs=1e-6)


def test_jensen_shannon_is_symmetric() -> None:
    p, q = random_attention(1, 1, 6, 6, seed=1), random_attention(1, 1, 6, 6, seed=2)
    assert torch.allclose(jensen_shannon(p, q), jensen_shannon(q, p))


def test_the_head_that_was_changed_has_the_largest_difference() -> None:
    before = [random_attention(1, 4, 8, 8, seed=s) for s in range(3)]
    after = [layer.clone() for layer in before]
    after[1][:, 2] = looking_back(8, 1)[:, 0]
    difference = head_difference(before, after)
    first, second, *_ = ranked(difference)
    assert (first.layer, first.head) == (1, 2)
    assert second.value == 0


def test_captures_of_different_texts_are_refused_with_both_shapes() -> None:
    with pytest.raises(ModelError, match=r"1 layers of \(1, 1, 4, 4\).*1 layers of \(1, 1, 5, 5\)"):
        head_difference([uniform(4)], [uniform(5)])


# -- grouped-query attention -----------------------------------------------------------------------------


def test_nine_heads_on_three_key_value_heads_form_three_groups() -> None:
    """SmolLM2-135M's shape."""
    assert [kv_head_of(head, 9, 3) for head in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert kv_groups(9, 3) == [range(3), range(3, 6), range(6, 9)]


def test_heads_that_do_not_divide_evenly_are_refused() -> None:
    with pytest.raises(ModelError, match="9 query heads cannot share 2"):
        kv_groups(9, 2)
