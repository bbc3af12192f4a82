"""Tiny models with random weights, one for each family: real code, no download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import nn

from lab.config import GPTConfig
from lab.models.gpt import GPTModel, build_gpt

VOCAB = 259  # three special tokens, and one for every byte
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GEMMA = {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
_OLD = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 1}
_OLD["eos_token_id"] = 2
_NEOX = {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"}

CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(**_OLD),
    "llama": lambda: transformers.LlamaConfig(**_LLAMA),
    "mistral": lambda: transformers.MistralConfig(**_LLAMA, sliding_window=4),
    "qwen2": lambda: transformers.Qwen2Config(**_LLAMA),
    "qwen3": lambda: transformers.Qwen3Config(**_LLAMA, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_GEMMA),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GEMMA),
    "olmo2": lambda: transformers.Olmo2Config(**_LLAMA),
    "phi": lambda: transformers.PhiConfig(**_LLAMA),
    "neox": lambda: transformers.GPTNeoXConfig(**_NEOX),
    "neox-sequential": lambda: transformers.GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
    "gptj": lambda: transformers.GPTJConfig(**_OLD, rotary_dim=4),
    "phi3": lambda: transformers.Phi3Config(**_LLAMA),
}
PARALLEL = {"phi", "neox", "gptj"}


def tiny(name: str) -> nn.Module:
    """A model of this family with random weights large enough that every part matters."""
    return filled(transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager"))


def filled(model: nn.Module) -> nn.Module:
    """Weights of size 0.2 instead of 0.02: with the usual start, attention is all but uniform, and shows no mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 and "weight" in name else 0.2 * noise)
    return model.eval()


def tiny_gpt(**changes: Any) -> GPTModel:
    """The lab's own GPT."""
    shape = {"vocab_size": VOCAB, "context_length": 64, "emb_dim": 32, "n_layers": 3, "n_heads": 4, "qkv_bias": True}
    model = build_gpt(GPTConfig(**{**shape, **changes}), seed=1)
    filled(model)
    return model


def some_ids(batch: int = 2, positions: int = 12) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, positions), generator=torch.Generator().manual_seed(7))


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Every byte is a token, after <pad>, <s> and </s>; written as byte-level BPE tokenizers write them."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate([*special, *letters])}, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def saved(model: Any, folder: Path) -> Path:
    """A folder as the hub has them: config, weights, tokenizer."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
