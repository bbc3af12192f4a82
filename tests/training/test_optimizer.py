"""Who is decayed, who is listed, and that both optimizers do what AdamW does."""

import sys

import pytest
import torch
from torch import nn

from lab.config import GPTConfig, OptimConfig
from lab.errors import ConfigError
from lab.models.gpt import build_gpt
from lab.training.optimizer import build_optimizer, parameter_groups, set_learning_rate

TINY = GPTConfig(vocab_size=11, context_length=8, emb_dim=8, n_layers=2, n_heads=2, qkv_bias=True)


def names_by_decay(model: nn.Module, weight_decay: float) -> dict[float, set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), weight_decay)
    return {group["weight_decay"]: {names[p] for p in group["params"]} for group in groups}


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    by_decay = names_by_decay(build_gpt(TINY, seed=0), 0.1)
    assert all(name.endswith("weight") and "norm" not in name for name in by_decay[0.1])
    assert all(name.endswith("bias") or "norm" in name for name in by_decay[0.0])
    assert {"tok_emb.weight", "pos_emb.weight", "out_head.weight", "trf_blocks.1.ff.layers.0.weight"} <= by_decay[0.1]


def test_without_a_gradient_decay_shrinks_matrices_by_lr_times_decay_and_nothing_else() -> None:
    model = build_gpt(TINY, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimConfig(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = before[name] * (1 - 0.1 * 0.5) if parameter.dim() == 2 else before[name]
        torch.testing.assert_close(parameter.detach(), shrunk)


def test_tied_matrix_is_one_optimizer_entry() -> None:
    tied = build_gpt(GPTConfig(**{**TINY.model_dump(), "tie_embeddings": True}), seed=0)
    listed = [p for group in build_optimizer(tied, OptimConfig()).param_groups for p in group["params"]]
    assert tied.out_head.weight is tied.tok_emb.weight
    assert sum(p is tied.tok_emb.weight for p in listed) == 1
    assert len(listed) == len(build_gpt(TINY, seed=0).state_dict()) - 1


def test_every_parameter_is_listed_once_and_frozen_ones_not_at_all() -> None:
    model = build_gpt(TINY, seed=0)
    model.pos_emb.weight.requires_grad_(False)
    listed = [id(p) for group in build_optimizer(model, OptimConfig()).param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_first_update_is_that_of_adamw_worked_out_by_hand(kind: str) -> None:
    """After one step both averages are the gradient and its square, so the update is lr · g / (|g| + ε)."""
    matrix = nn.Linear(2, 2, bias=False)
    matrix.weight.data = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    matrix.weight.grad = torch.tensor([[0.3, -0.2], [0.1, 5.0]])
    optimizer = build_optimizer(matrix, OptimConfig(optimizer=kind, learning_rate=0.1, weight_decay=0.5))
    optimizer.step()
    expected = torch.tensor([[1.0, -1.0], [0.5, 2.0]]) * (1 - 0.05) - 0.1 * torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    torch.testing.assert_close(matrix.weight.data, expected, rtol=1e-5, atol=1e-6)


def test_eight_bit_keeps_bytes_for_large_matrices_and_fp32_for_small_tensors() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    optimizer = build_optimizer(model, OptimConfig(optimizer="adamw_8bit"))
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    assert optimizer.state[model[0].weight]["state1"].dtype == torch.uint8
    assert optimizer.state[model[1].weight]["state1"].dtype == torch.float32


def test_betas_and_rate_reach_the_optimizer() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig(beta1=0.5, beta2=0.6, learning_rate=0.3))
    set_learning_rate(optimizer, 0.25)
    assert [(group["betas"], group["lr"]) for group in optimizer.param_groups] == [((0.5, 0.6), 0.25)] * 2


def test_eight_bit_without_bitsandbytes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes.*choose adamw"):
        build_optimizer(nn.Linear(2, 2), OptimConfig(optimizer="adamw_8bit"))
