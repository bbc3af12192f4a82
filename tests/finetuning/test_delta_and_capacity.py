"""What an adapter did, against matrices worked out in full."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from lab.config import FineTuneModelConfig
from lab.finetuning.adapter import attach
from lab.finetuning.adapter_watch import AdapterWatch, base_norms
from lab.finetuning.capacity import capacity, checked
from lab.finetuning.delta import effective_rank, layer_deltas, place_of, singular_values
from tests.finetuning.helpers import config_for, stir_adapter, task_for, tiny_folder
from tests.tiny_models import tiny


def test_singular_values_of_the_small_matrix_are_those_of_the_large_one() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 40, generator=generator), torch.randn(30, 5, generator=generator)
    whole = torch.linalg.svdvals(0.5 * b.double() @ a.double())
    assert singular_values(a, b, 0.5) == pytest.approx(whole[:5].tolist(), rel=1e-12)
    assert float(whole[5:].max()) < 1e-12


def test_a_rank_above_the_layers_width_is_no_obstacle() -> None:
    a, b = torch.ones(8, 3), torch.ones(4, 8)
    found = singular_values(a, b, 1.0)
    assert found[0] == pytest.approx(8 * math.sqrt(12))


def test_effective_rank_counts_equal_directions_and_says_one_for_one() -> None:
    assert effective_rank([3.0, 3.0, 3.0]) == pytest.approx(3)
    assert effective_rank([5.0, 0.0, 0.0]) == pytest.approx(1)
    assert effective_rank([0.0, 0.0]) == 0


@pytest.mark.parametrize("rslora", [False, True])
def test_every_adapted_layer_equals_pefts_own_delta(rslora: bool) -> None:
    model = get_peft_model(
        tiny("llama"), LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=rslora)
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    config = {"lora_alpha": 6, "use_rslora": rslora}
    found = layer_deltas(get_peft_model_state_dict(model), config, lambda module: 2.0)
    parts = ("mlp.down_proj", "self_attn.q_proj")
    assert [(one.layer, one.part) for one in found] == [(n, part) for n in range(3) for part in parts]
    for one in found:
        layer = model.get_base_model().get_submodule(one.module)
        delta = layer.get_delta_weight("default").detach()
        assert one.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert one.singular_values[0] == pytest.approx(float(torch.linalg.matrix_norm(delta, 2)), rel=1e-5)
        assert one.relative == pytest.approx(one.norm / 2)
        assert 1 <= one.effective_rank <= 4


def test_a_change_is_measured_against_the_layers_own_weights_by_hand() -> None:
    """ΔW = 2 · (1, 0)ᵀ (0.3, 0.4): one row of length 1; W = diag(3, 4): length 5."""
    tensors = {
        "base_model.model.h.7.mlp.w.lora_A.weight": torch.tensor([[0.3, 0.4]]),
        "base_model.model.h.7.mlp.w.lora_B.weight": torch.tensor([[1.0], [0.0]]),
    }
    own = float(torch.diag(torch.tensor([3.0, 4.0])).norm())
    (one,) = layer_deltas(tensors, {"lora_alpha": 2}, {"h.7.mlp.w": own}.get)
    assert (one.layer, one.part, one.norm) == (7, "mlp.w", pytest.approx(1))
    assert one.relative == pytest.approx(0.2)
    assert layer_deltas(tensors, {"lora_alpha": 2})[0].relative is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_watch_tells_of_every_layer_once_what_its_own_weights_are_and_always_how_far_it_moved(family: str) -> None:
    model, _ = attach(tiny(family), FineTuneModelConfig(rank=4, alpha=6.0), 1, address="")
    watch = AdapterWatch()
    table, first = watch(model, 0)
    stir_adapter(model)
    _, second = watch(model, 5)
    assert table == "layer_stats"
    base = {(row["layer"], row["point"]): row["value"] for row in first if row["name"] == "base_norm"}
    assert {row["value"] for row in first if row["name"] in ("norm", "relative")} == {0.0}
    layers = {
        place_of(name): layer
        for name, layer in model.get_base_model().named_modules()  # type: ignore[operator]
        if hasattr(layer, "get_delta_weight")
    }
    assert set(base) == set(layers), "no two layers of a block share a name"
    found = {(row["layer"], row["point"], row["name"]): row["value"] for row in second}
    assert len(second) == 3 * len(layers)
    for (number, part), layer in layers.items():
        own, delta = layer.get_base_layer().weight, layer.get_delta_weight("default").detach()
        assert base[number, part] == pytest.approx(float(own.detach().norm()), rel=1e-5)
        assert found[number, part, "norm"] == pytest.approx(float(delta.norm()), rel=1e-5)
        assert found[number, part, "relative"] == pytest.approx(float(delta.norm() / own.detach().norm()), rel=1e-5)


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_coarse_weights_count_as_the_numbers_they_stand_for(method: str, tmp_path: Path) -> None:
    """A layer shows these numbers when it is given one after the other of the identity's rows."""
    task, _ = task_for(config_for(tiny_folder(tmp_path / "tiny"), method=method, precision="bf16"))
    task.evaluate(lambda: False)  # as before the probe: bitsandbytes moves the scales of 8-bit weights then
    norms = base_norms(task.model)
    assert norms
    for name, norm in norms.items():
        layer = task.causal.get_submodule(name).get_base_layer()
        with torch.no_grad():
            shown = layer(torch.eye(layer.in_features, dtype=torch.bfloat16)).float()  # [in, out]
        assert norm == pytest.approx(float(shown.norm()), rel=0.01)


def test_the_rule_of_thumb_compares_two_bits_a_parameter_with_the_loss_before() -> None:
    found = capacity(1_000, 4_000, first_loss=math.log(2))
    assert (found.holds_bits, found.needs_bits, found.share) == (2_000, pytest.approx(4_000), pytest.approx(2))
    assert "2.0 times what fits" in found.sentence
    assert "Rank is no limit" in capacity(1_000_000, 4_000).sentence


def test_after_the_run_it_says_what_was_learnt() -> None:
    before = capacity(1_000_000, 4_000, first_loss=2.0)
    assert "as the rule said" in checked(before, 2.0, 1.0)
    assert "It learnt 1.44 of 2.89 bits" in checked(before, 2.0, 1.0)
    assert "learning rate" in checked(before, 2.0, 2.1)
