"""Weights go to transformers' GPT-2 and back, and both models give the same logits."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.config import PRESETS, GPTConfig
from lab.errors import LabError, ModelError
from lab.models.gpt import GPTModel, build_gpt
from lab.models.gpt2_weights import export_gpt2, load_gpt2, read_config
from lab.models.parts import parameter_counts

transformers = pytest.importorskip("transformers", reason="needs transformers as the reference")

TOLERANCE = 1e-4
SHAPE: dict[str, Any] = {"vocab_size": 120, "context_length": 24, "emb_dim": 32, "n_layers": 3, "n_heads": 4}


def with_opinions(model: torch.nn.Module) -> Any:
    """Every weight, bias and norm its own random size, so that nothing swapped or dropped goes unnoticed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def their_gpt2(**changes: Any) -> Any:
    shape = {"vocab_size": 120, "n_positions": 24, "n_embd": 32, "n_layer": 3, "n_head": 4}
    config = transformers.GPT2Config(**{**shape, "bos_token_id": None, "eos_token_id": None, **changes})
    return with_opinions(transformers.GPT2LMHeadModel(config))


def ids() -> Tensor:
    return torch.randint(120, (2, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def largest_difference(ours: GPTModel, theirs: Any) -> float:
    logits = theirs(ids()).logits
    assert logits.std() > 0.5  # the comparison would be empty between logits that are all about 0
    return (ours(ids()) - logits).abs().max().item()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 that transformers saved."""
    their_gpt2().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Both ways ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("path", ["sdpa", "manual"])
def test_a_gpt2_from_transformers_gives_the_same_logits_here(tmp_path: Path, tied: bool, path: Any) -> None:
    theirs = their_gpt2(tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path, attention_impl=path)
    assert largest_difference(ours, theirs) < TOLERANCE
    assert (ours.out_head.weight is ours.tok_emb.weight) == tied
    assert ours.config.tie_embeddings == tied
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_an_exported_model_gives_the_same_logits_in_transformers(tmp_path: Path, tied: bool, qkv_bias: bool) -> None:
    config = GPTConfig(**SHAPE, tie_embeddings=tied, qkv_bias=qkv_bias)
    ours = with_opinions(build_gpt(config, seed=0))
    export_gpt2(ours, tmp_path)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.tie_word_embeddings == tied
    assert largest_difference(ours, theirs.eval()) < TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_export_and_load_give_back_the_shape_and_every_weight_bit_for_bit(
    tmp_path: Path, tied: bool, qkv_bias: bool
) -> None:
    config = GPTConfig(**SHAPE, tie_embeddings=tied, qkv_bias=qkv_bias, drop_rate=0.1, attention_drop_rate=0.2)
    ours = with_opinions(build_gpt(config, seed=0))
    again = load_gpt2(export_gpt2(ours, tmp_path))
    assert again.config == config
    before, after = ours.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_biases_that_were_trained_elsewhere_after_an_export_are_not_lost(tmp_path: Path) -> None:
    export_gpt2(build_gpt(GPTConfig(**SHAPE, qkv_bias=False), seed=0), tmp_path)
    theirs = with_opinions(transformers.GPT2LMHeadModel.from_pretrained(tmp_path))
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert ours.config.qkv_bias
    assert largest_difference(ours, theirs) < TOLERANCE


def test_16_bit_weights_are_loaded_as_fp32(tmp_path: Path) -> None:
    theirs = their_gpt2().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert largest_difference(ours, theirs.float()) < TOLERANCE


def test_weights_in_several_files_are_put_together(tmp_path: Path) -> None:
    theirs = their_gpt2()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert largest_difference(load_gpt2(tmp_path), theirs) < TOLERANCE


def test_names_without_the_transformer_prefix_are_understood(folder: Path) -> None:
    """As in the files that OpenAI's models are published in."""
    expected = load_gpt2(folder)(ids())
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    assert torch.equal(load_gpt2(folder)(ids()), expected)


def test_the_medium_preset_is_gpt2_small_and_default_gpt2_settings_are_the_medium_preset(tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    theirs.config.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    shape = {"drop_rate", "attention_drop_rate"}
    assert config.model_dump(exclude=shape) == PRESETS["medium"].model.model_dump(exclude=shape)
    assert parameter_counts(config)["total"] == sum(p.numel() for p in theirs.parameters())


def test_loading_draws_nothing_from_torchs_default_generator(folder: Path) -> None:
    before = torch.get_rng_state()
    model = load_gpt2(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


# What a person can get wrong ----------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"/nowhere is not a Hugging Face model folder: it has no config\.json"):
        load_gpt2("/nowhere")


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_config_that_is_not_a_config_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"may be damaged|of type None"):
        load_gpt2(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "llama"}, "holds a model of type 'llama', but only 'gpt2' fits"),
        ({"activation_function": "relu"}, "activation_function = 'relu', but GPTModel can only do 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06, but GPTModel can only do 1e-05"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"n_inner": 96}, r"feed-forward of width 96 \(n_inner\), but GPTModel's is 4 × 32 = 128"),
        ({"n_head": 5}, "has width 32, which its 5 heads cannot share evenly"),
        ({"n_layer": "many"}, "does not describe a GPT-2: n_layers is 'many'"),
        ({"n_embd": None}, "does not describe a GPT-2"),
    ],
)
def test_an_architecture_that_is_not_ours_is_refused_by_name(
    folder: Path, changes: dict[str, Any], sentence: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=sentence):
        load_gpt2(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"lacks h\.1\.mlp\.c_fc\.bias, which its config\.json promises"):
        load_gpt2(folder)


def test_an_untied_folder_without_an_output_layer_is_refused(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        load_gpt2(folder)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(folder: Path) -> None:
    edit_config(folder, n_positions=48)
    with pytest.raises(ModelError, match=r"wpe\.weight in .* has shape \[24, 32\], but .* asks for \[48, 32\]"):
        load_gpt2(folder)


def test_a_folder_without_weights_says_which_file_it_needs(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load_gpt2(folder)


def test_a_cut_off_weight_file_is_called_damaged(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_gpt2(folder)


def test_a_missing_part_of_several_is_named(tmp_path: Path) -> None:
    their_gpt2().save_pretrained(tmp_path, max_shard_size="40KB")
    part = sorted(tmp_path.glob("*.safetensors"))[0]
    part.unlink()
    with pytest.raises(ModelError, match=f"lacks {part.name}, which its index names"):
        load_gpt2(tmp_path)


def test_exporting_to_where_nothing_can_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="could not be written"):
        export_gpt2(build_gpt(GPTConfig(**SHAPE), seed=0), tmp_path / "file" / "model")


def test_an_export_that_finds_the_disk_full_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    model = build_gpt(GPTConfig(**SHAPE), seed=0)
    export_gpt2(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # files end at 10 kB, as they would on a full disk
    try:
        with pytest.raises(LabError, match=r"model\.safetensors could not be written"):
            export_gpt2(with_opinions(model), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
