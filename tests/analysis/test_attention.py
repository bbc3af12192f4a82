"""Figures of attention patterns, against patterns whose figures are known by hand."""

import math

import pytest
import torch
from torch import Tensor

from lab.analysis.attention import entropy, mean_distance, mean_view, rollout, sink_share, visible_keys


def uniform(n: int, window: int | None = None) -> Tensor:
    """Everybody looks at everything that can be seen, alike: [1, 1, n, n]."""
    seen = visible_keys(n, window=window).float()
    return (seen / seen.sum(-1, keepdim=True))[None, None]


def random_attention(*shape: int, seed: int = 0) -> Tensor:
    """Causal, rows sum to 1."""
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(~visible_keys(shape[-1]), -math.inf).softmax(-1)


def looking_back(n: int, offset: int) -> Tensor:
    """Each query looks at the key `offset` before it, or at the first: [1, 1, n, n]."""
    keys = (torch.arange(n) - offset).clamp(min=0)
    return torch.nn.functional.one_hot(keys, n).float()[None, None]


def test_a_query_sees_itself_and_what_came_before() -> None:
    assert visible_keys(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_window_of_two_keys_is_the_query_and_the_key_before_it() -> None:
    assert visible_keys(3, window=2).tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_with_a_cache_the_queries_are_the_last_positions() -> None:
    assert visible_keys(1, 3).tolist() == [[True, True, True]]


@pytest.mark.parametrize("window", [None, 3])
def test_entropy_of_uniform_attention_is_one_at_every_query_that_has_a_choice(window: int | None) -> None:
    values = entropy(uniform(6, window), visible=visible_keys(6, window=window))
    assert values[0, 0, 1:].tolist() == pytest.approx([1.0] * 5)


def test_entropy_of_a_window_counted_over_all_keys_would_be_too_small() -> None:
    assert entropy(uniform(6, window=2))[0, 0, -1].item() == pytest.approx(math.log(2) / math.log(6))


def test_entropy_of_looking_at_one_key_is_zero() -> None:
    assert entropy(looking_back(5, 1))[0, 0, 1:].tolist() == [0.0] * 4


def test_entropy_where_there_is_no_choice_is_undefined() -> None:
    assert math.isnan(entropy(uniform(4))[0, 0, 0])


def test_entropy_of_one_half_one_half_zero_by_hand() -> None:
    row = torch.tensor([[0.5, 0.5, 0.0]])
    assert entropy(row, visible=torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(math.log(2) / math.log(3))


def test_mean_distance_of_a_head_that_looks_two_back_is_two() -> None:
    assert mean_distance(looking_back(6, 2))[0, 0].tolist() == [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_mean_distance_with_a_cache_counts_from_the_query() -> None:
    assert mean_distance(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [2.0]


def test_a_head_that_rests_on_the_first_token_has_sink_share_one() -> None:
    assert sink_share(looking_back(5, 5)).item() == 1.0


def test_a_head_that_looks_at_itself_is_no_sink_although_the_first_token_must() -> None:
    assert sink_share(looking_back(5, 0)).item() == 0.0


def test_the_sink_share_of_a_single_token_is_undefined() -> None:
    assert math.isnan(sink_share(torch.ones(1, 1, 1, 1)).item())


def test_the_sink_share_with_a_cache_counts_every_query() -> None:
    assert sink_share(torch.tensor([[0.25, 0.75]])).item() == 0.25


def test_the_mean_view_averages_heads_and_its_rows_sum_to_one() -> None:
    attention = random_attention(2, 4, 6, 6)
    assert torch.allclose(mean_view(attention), attention.mean(1))
    assert torch.allclose(mean_view(attention).sum(-1), torch.ones(2, 6))


def test_rollout_rows_sum_to_one_and_never_show_the_future() -> None:
    reached = rollout([random_attention(2, 3, 7, 7, seed=s) for s in range(4)])
    assert reached.shape == (4, 2, 7, 7)
    assert torch.allclose(reached.sum(-1), torch.ones(4, 2, 7), atol=1e-6)
    assert not reached.masked_select(~visible_keys(7)).any()


def test_rollout_of_two_layers_that_look_one_back_by_hand() -> None:
    """Half of what is at position 2 stays, half comes from 1; twice: 1/4 of the token itself, 1/2, 1/4."""
    reached = rollout([looking_back(3, 1)] * 2)
    assert reached[-1, 0, 2].tolist() == [0.25, 0.5, 0.25]


def test_rollout_of_the_stream_alone_stays_where_it_is() -> None:
    reached = rollout([random_attention(1, 2, 4, 4)] * 3, residual_share=1.0)
    assert torch.equal(reached[-1, 0], torch.eye(4))


def test_half_precision_weights_are_summed_in_single() -> None:
    assert entropy(random_attention(1, 1, 5, 5).half()).dtype == torch.float32
