"""LoRA: which layers it goes beside, what it computes, and where its first numbers come from."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lab.config import FineTuneModelConfig
from lab.errors import ModelError
from lab.finetuning.adapter import FOLDER, attach, targets, write_adapter
from tests.finetuning.helpers import stir_adapter
from tests.tiny_models import CONFIGS, some_ids, tiny, tiny_gpt


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=some_ids()).logits


@pytest.mark.parametrize("family", CONFIGS)
def test_all_linear_means_every_linear_layer_inside_the_blocks_and_never_the_output_layer(family: str) -> None:
    model = tiny(family)
    found = targets(model)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    head = {n for n, m in model.named_modules() if m is model.get_output_embeddings()}  # type: ignore[operator]
    assert set(found.names) == linear - head
    assert found.family


@pytest.mark.parametrize("family", CONFIGS)
def test_attention_and_mlp_divide_the_layers_between_them(family: str) -> None:
    model = tiny(family)
    attention, mlp = (set(targets(model, chosen).names) for chosen in ("attention", "mlp"))
    assert attention | mlp == set(targets(model).names)
    assert not attention & mlp
    assert attention
    assert mlp


@pytest.mark.parametrize("chosen", ["all_linear", "attention", "mlp"])
@pytest.mark.parametrize("family", ["gpt2", "neox", "phi3"])
def test_peft_puts_adapters_beside_just_these_layers(family: str, chosen: str) -> None:
    model, found = attach(tiny(family), FineTuneModelConfig(rank=2, target_modules=chosen), 1, address="x")
    adapted = {
        n.partition(".lora_A")[0].removeprefix("base_model.model.")
        for n, _ in model.named_parameters()
        if ".lora_A" in n
    }
    assert adapted == set(found.names)


class Stranger(nn.Module):
    """A model of no family: blocks with linear layers, and one outside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(3))
        self.head = nn.Linear(4, 9)


def test_an_unknown_family_gets_the_linear_layers_inside_its_blocks() -> None:
    found = targets(Stranger())
    assert found.family == ""
    assert found.names == tuple(f"layers.{block}.{layer}" for block in range(3) for layer in (0, 2))


def test_the_attention_of_an_unknown_family_cannot_be_chosen() -> None:
    with pytest.raises(ModelError, match="choose all_linear"):
        targets(Stranger(), "attention")


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({}, {}),
        ({"rslora": True}, {"use_rslora": True}),
        ({"dora": True}, {"use_dora": True}),
        ({"alpha": 3.0}, {"lora_alpha": 3.0}),
    ],
)
def test_the_forward_pass_is_pefts_own_and_follows_each_setting(
    settings: dict[str, object], theirs: dict[str, object]
) -> None:
    base = tiny("qwen2")
    ours, found = attach(copy.deepcopy(base), FineTuneModelConfig(rank=4, **settings), 1, address="x")
    wanted = LoraConfig(
        **{"r": 4, "lora_alpha": 32, "target_modules": list(found.endings), "task_type": "CAUSAL_LM", **theirs}
    )
    reference = get_peft_model(copy.deepcopy(base), wanted)
    stir_adapter(ours)
    reference.load_state_dict(ours.state_dict())
    assert torch.equal(logits(ours), logits(reference))
    assert not torch.allclose(logits(ours), logits(base))


def test_before_the_first_step_the_adapter_changes_nothing() -> None:
    base = tiny("llama")
    before = logits(base)
    model, _ = attach(base, FineTuneModelConfig(), 1, address="x")
    assert torch.equal(logits(model), before)


def test_only_the_adapter_trains_and_it_is_in_fp32() -> None:
    model, _ = attach(tiny("llama").bfloat16(), FineTuneModelConfig(), 1, address="x")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)


def test_first_weights_come_from_the_seed_alone() -> None:
    def first(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        model, _ = attach(tiny_gpt(), FineTuneModelConfig(rank=4), seed, address="x")
        return {n: p.clone() for n, p in model.named_parameters() if "lora_A" in n}

    one, same, other = first(1, noise=5), first(1, noise=6), first(2, noise=5)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_attaching_leaves_the_default_generator_where_it_was() -> None:
    model = tiny("llama")
    before = torch.get_rng_state()
    attach(model, FineTuneModelConfig(), 1, address="x")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{}, {"dora": True, "rslora": True}])
def test_plain_peft_loads_what_is_written(settings: dict[str, object], tmp_path: Path) -> None:
    base = tiny("llama")
    model, _ = attach(copy.deepcopy(base), FineTuneModelConfig(rank=4, **settings), 1, address="some/where")
    stir_adapter(model)
    folder = tmp_path / FOLDER
    folder.mkdir()
    write_adapter(model, folder)
    loaded = PeftModel.from_pretrained(base, str(folder))
    assert loaded.peft_config["default"].base_model_name_or_path == "some/where"
    assert torch.equal(logits(loaded), logits(model))
