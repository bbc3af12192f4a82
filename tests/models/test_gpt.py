"""The model computes what a transformer computes, checked by hand, by a second path, and by its own promises."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.config import PRESETS, GPTConfig
from lab.models.gpt import AttentionImpl, GPTModel, KVCache, MultiHeadAttention, build_gpt

TINY = GPTConfig(vocab_size=50, context_length=16, emb_dim=32, n_layers=3, n_heads=4)
PATHS: tuple[AttentionImpl, ...] = ("sdpa", "manual")


def random_ids(batch: int, length: int, vocab: int, seed: int = 0) -> Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def loss_of(model: GPTModel, ids: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(ids).flatten(0, 1), labels.flatten())


# Attention, by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_attention_of_three_tokens_is_what_the_hand_calculation_says(path: AttentionImpl) -> None:
    """Two heads of two dimensions. Head 0: queries, keys and values are the token's first two numbers. Head 1: queries
    are 0, so every visible token gets the same weight, and the result is a running mean of the last two numbers."""
    attention = MultiHeadAttention(GPTConfig(vocab_size=9, context_length=3, emb_dim=4, n_heads=2, n_layers=1), path)
    with torch.no_grad():
        for linear in (attention.W_query, attention.W_key, attention.W_value, attention.out_proj):
            linear.weight.copy_(torch.eye(4))
        attention.W_query.weight[2:] = 0
        attention.out_proj.bias.zero_()
        x = torch.tensor([[[1.0, 0, 6, 0], [0, 1, 0, 6], [1, 1, 3, 3]]])
        result = attention(x)[0]
    # Token 0 sees only itself.
    # Token 1 matches token 0 with 0 and itself with 1: e^0 = 1 and e^(1/√2) = 2.02811, so weights 0.33024 and 0.66976.
    # Token 2 matches with 1, 1 and 2: 2.02811, 2.02811 and e^(2/√2) = 4.11325: weights 0.24825, 0.24825, 0.50349.
    by_hand = torch.tensor([[1.0, 0, 6, 0], [0.33024, 0.66976, 3, 3], [0.75175, 0.75175, 3, 3]])
    torch.testing.assert_close(result, by_hand, atol=1e-5, rtol=0)


def test_attention_weights_sum_to_one_and_leave_the_future_at_zero() -> None:
    attention = MultiHeadAttention(TINY, "manual")
    queries, keys = torch.randn(2, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    weights = attention.weights(queries, keys)  # [2, 4, 7, 7]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 7))
    assert (weights.triu(1) == 0).all()


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_fused_attention_equals_manual_attention_in_logits_and_gradients(qkv_bias: bool) -> None:
    config = TINY.model_copy(update={"qkv_bias": qkv_bias})
    ids, labels = random_ids(2, 16, 50), random_ids(2, 16, 50, seed=1)
    models = [build_gpt(config, seed=3, attention_impl=path) for path in PATHS]
    torch.testing.assert_close(models[0](ids), models[1](ids), atol=1e-6, rtol=0)
    for model in models:
        loss_of(model, ids, labels).backward()
    for (name, fused), (_, manual) in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        assert fused.grad is not None, name
        torch.testing.assert_close(fused.grad, manual.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_changing_a_token_changes_nothing_before_it_and_something_from_it_on(path: AttentionImpl) -> None:
    model = build_gpt(TINY, seed=0, attention_impl=path).eval()
    ids = random_ids(1, 16, 50)
    changed = ids.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert ((before - after)[0, 9:].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_reading_in_pieces_with_a_cache_gives_the_logits_of_reading_at_once(path: AttentionImpl) -> None:
    model = build_gpt(TINY, seed=0, attention_impl=path).eval()
    ids = random_ids(2, 16, 50)
    cache = KVCache()
    pieces = [model(piece, cache) for piece in ids.split([5, 1, 1, 6, 3], dim=1)]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-6, rtol=0)


# The whole model ----------------------------------------------------------------------------------------------------


def test_nano_turns_2_by_64_ids_into_2_by_64_by_50257_logits() -> None:
    model = build_gpt(PRESETS["nano"].model, seed=0)
    assert model(random_ids(2, 64, 50_257)).shape == (2, 64, 50_257)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    config = TINY.model_copy(update={"drop_rate": 0.2, "attention_drop_rate": 0.2})
    model, without = build_gpt(config, seed=0), build_gpt(TINY, seed=0).eval()
    ids = random_ids(2, 16, 50)
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), without(ids))


def test_each_dropout_is_used_once_in_a_pass_so_that_each_has_a_mask_of_its_own() -> None:
    model = build_gpt(TINY.model_copy(update={"drop_rate": 0.2, "attention_drop_rate": 0.2}), seed=0).train()
    calls: list[nn.Module] = []
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    for dropout in dropouts:
        dropout.register_forward_pre_hook(lambda module, args: calls.append(module))
    model(random_ids(1, 8, 50))
    assert len(calls) == len(set(calls)) == len(dropouts)


@pytest.mark.parametrize(("preset", "millions"), [("nano", 30.5), ("small", 76.9), ("medium", 124.4)])
def test_presets_have_the_published_numbers_of_parameters(preset: str, millions: float) -> None:
    with torch.device("meta"):
        model = GPTModel(PRESETS[preset].model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_weights_depend_on_the_seed_alone_and_torchs_generator_stays_where_it_is() -> None:
    before = torch.get_rng_state()
    first = build_gpt(TINY, seed=5)
    torch.rand(3)
    again, other = build_gpt(TINY, seed=5), build_gpt(TINY, seed=6)
    torch.set_rng_state(before)
    build_gpt(TINY, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.out_head.weight, again.out_head.weight)
    assert not torch.equal(first.out_head.weight, other.out_head.weight)


def test_weights_start_at_gpt2s_size_and_smaller_where_they_write_into_the_stream() -> None:
    model = build_gpt(GPTConfig(vocab_size=500, emb_dim=128, n_layers=8, n_heads=4), seed=0)
    block = model.trf_blocks[3]
    assert block.att.W_query.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.ff.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.03)
    for writer in (block.att.out_proj, block.ff.layers[2]):
        assert writer.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.03)
        assert not writer.bias.any()


# Tied output layer --------------------------------------------------------------------------------------------------


@pytest.fixture
def tied() -> GPTModel:
    return build_gpt(TINY.model_copy(update={"tie_embeddings": True}), seed=0)


def test_a_tied_output_layer_is_one_parameter_counted_once(tied: GPTModel) -> None:
    assert tied.out_head.weight is tied.tok_emb.weight
    untied = build_gpt(TINY, seed=0)
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == 50 * 32
    assert "out_head.weight" not in dict(tied.named_parameters())


def test_a_tied_output_layer_stays_tied_after_loading(tied: GPTModel) -> None:
    other = build_gpt(tied.config, seed=1)
    other.load_state_dict(tied.state_dict())
    assert other.out_head.weight is other.tok_emb.weight
    ids = random_ids(1, 8, 50)
    assert torch.equal(other(ids), tied(ids))
    with torch.no_grad():
        other.tok_emb.weight.zero_()
    assert not other(ids).any()


def test_a_tied_matrix_gets_the_gradients_of_both_its_uses(tied: GPTModel) -> None:
    ids, labels = random_ids(2, 16, 50), random_ids(2, 16, 50, seed=1)
    untied = build_gpt(TINY, seed=0)
    untied.load_state_dict(tied.state_dict())
    for model in (tied, untied):
        loss_of(model, ids, labels).backward()
    both = untied.tok_emb.weight.grad + untied.out_head.weight.grad
    torch.testing.assert_close(tied.tok_emb.weight.grad, both)


# Gradient checkpointing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("drop_rate", [0.0, 0.2])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(path: AttentionImpl, drop_rate: float) -> None:
    config = TINY.model_copy(update={"drop_rate": drop_rate, "attention_drop_rate": drop_rate})
    ids, labels = random_ids(2, 16, 50), random_ids(2, 16, 50, seed=1)
    found = []
    for checkpointing in (False, True):
        model = build_gpt(config, seed=0, attention_impl=path, gradient_checkpointing=checkpointing).train()
        with torch.random.fork_rng():
            torch.manual_seed(11)
            loss = loss_of(model, ids, labels)
            loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for off, on in zip(*found, strict=True):
        assert torch.equal(off, on)


def test_gradient_checkpointing_runs_each_block_twice_in_training_and_once_in_evaluation() -> None:
    model = build_gpt(TINY, seed=0, gradient_checkpointing=True)
    calls: list[nn.Module] = []
    for block in model.trf_blocks:
        block.ff.register_forward_pre_hook(lambda module, args: calls.append(module))
    ids = random_ids(1, 8, 50)
    loss_of(model.train(), ids, ids).backward()
    assert len(calls) == 2 * TINY.n_layers
    calls.clear()
    loss_of(model.eval(), ids, ids).backward()
    assert len(calls) == TINY.n_layers


# The first loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        pytest.param(PRESETS["nano"].model, 0.02, id="nano, GPT-2's vocabulary"),
        pytest.param(PRESETS["pocket"].model, 0.02, id="pocket, characters"),
        pytest.param(PRESETS["small"].model.model_copy(update={"vocab_size": 65}), 0.04, id="512 wide, characters"),
        pytest.param(
            PRESETS["medium"].model.model_copy(update={"vocab_size": 65, "tie_embeddings": False}),
            0.04,
            id="768 wide, characters",
        ),
    ],
)
def test_an_untrained_model_knows_nothing_and_its_loss_says_so(shape: GPTConfig, tolerance: float) -> None:
    """A model that gives each of V tokens the same probability has a loss of ln V."""
    model = build_gpt(shape, seed=0).eval()
    ids, labels = random_ids(8, 64, shape.vocab_size), random_ids(8, 64, shape.vocab_size, seed=1)
    with torch.no_grad():
        loss = loss_of(model, ids, labels).item()
    assert loss == pytest.approx(math.log(shape.vocab_size), rel=tolerance)


def test_more_positions_than_the_context_or_an_unknown_id_is_an_error() -> None:
    model = build_gpt(TINY, seed=0)
    with pytest.raises(IndexError):
        model(random_ids(1, 17, 50))
    with pytest.raises(IndexError):
        model(torch.tensor([[50]]))
