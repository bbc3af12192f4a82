"""Sizes by arithmetic, against the published numbers of parameters and against real modules."""

import pytest
import transformers

from lab.models.registry import REGISTRY, find_model
from lab.models.shapes import PRECISIONS

PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b-pt": 999_885_952,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


def test_every_registered_model_has_a_published_size() -> None:
    assert {entry.name for entry in REGISTRY} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_by_arithmetic_are_those_published(name: str) -> None:
    assert find_model(name).parameters == PUBLISHED[name]


def test_memory_falls_with_precision_and_4_bits_leave_the_tables_in_16() -> None:
    for entry in REGISTRY:
        sizes = [entry.memory[precision] for precision in PRECISIONS]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == 4 * entry.parameters
    qwen = find_model("qwen2.5-7b")
    assert 5.0e9 < qwen.memory["4bit"] < 6.0e9  # half a byte for 6.5 of 7.6 billion, two for the tables


def test_linear_weights_are_those_that_quantisation_replaces() -> None:
    """Counted on a real Qwen 2 of the same shape, without memory."""
    import torch

    shape = find_model("qwen2.5-0.5b").shape
    config = transformers.Qwen2Config(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    )
    assert shape.linear == linear
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
