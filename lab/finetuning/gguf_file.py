"""A model of the Llama family as one GGUF file, which llama.cpp and its relatives run.

Two things are written differently there. Rotary embeddings turn pairs of numbers: Hugging Face pairs the first half of
a head with its second half, GGUF pairs neighbours, so the rows of the query and key matrices of Llama are put in
another order (those of Qwen are not: its readers keep the halves). And the tokenizer lies in the file, so it has to be
one that GGUF can describe: byte-level BPE.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.errors import ModelError
from lab.files import write_atomically
from lab.sessions.hf_tokenizer import HFTokenizer

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""Architecture in GGUF, by model_type of transformers."""
PERMUTED = ("llama",)
Q8_BLOCK = 32


def why_not(model_type: str) -> str:
    """Why a model cannot be written, in one sentence; empty when it can."""
    if model_type in FAMILIES:
        return ""
    return f"GGUF is written for the families {', '.join(FAMILIES)}, not for {model_type}: export it merged instead."


def write_gguf(model: nn.Module, tokenizer: HFTokenizer, path: Path, *, quantisation: str, name: str) -> None:
    """Write the file.

    Args:
        model: of transformers, in fp32, without adapters.
        quantisation: f16, or q8_0: blocks of 32 weights in 8 bits with a scale each. Vectors stay in 32 bits.
        name: what the file says it is.

    Raises:
        ModelError: the family, its rotary embedding or the tokenizer cannot be written.
        LabError: the folder cannot be written.
    """
    import gguf

    config: Any = model.config
    reason = why_not(config.model_type)
    if reason:
        raise ModelError(reason)
    arch = FAMILIES[config.model_type]

    def write(temporary: Path) -> None:
        writer = gguf.GGUFWriter(temporary, arch)
        _describe(writer, config, name, quantisation)
        _add_tokenizer(writer, tokenizer, config)
        names = gguf.get_tensor_name_map(_architecture(arch), config.num_hidden_layers)
        for theirs, tensor in model.state_dict().items():
            if theirs == "lm_head.weight" and config.tie_word_embeddings:
                continue
            ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            if ours is None:
                raise ModelError(f"GGUF has no name for {theirs}, so nothing was written.")
            array = _array(theirs, tensor, config, in_pairs=arch in PERMUTED)
            data, kind = _packed(array, quantisation)
            writer.add_tensor(ours, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomically(path, write)


def permuted(weights: NDArray[Any], n_heads: int) -> NDArray[Any]:
    """Rows of a query or key matrix [n_heads · d_head, …] from halves to neighbours: 0 1 2 3 -> 0 2 1 3."""
    halves = weights.reshape(n_heads, 2, weights.shape[0] // n_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


# -- inside -----------------------------------------------------------------------------------------------


def _architecture(arch: str) -> Any:
    import gguf

    return {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[arch]


def _describe(writer: Any, config: Any, name: str, quantisation: str) -> None:
    import gguf

    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"The model's rotary embedding is scaled ({rope['rope_type']}), which is not written to GGUF here: export "
            "it merged instead."
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise ModelError(
            f"The model looks back {config.sliding_window:,} tokens only (a sliding window), which is not written to "
            "GGUF here: export it merged instead."
        )
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(d_head)
    writer.add_value_length(d_head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("rope_theta", getattr(config, "rope_theta", 10_000.0)))
    writer.add_rope_dimension_count(d_head)
    writer.add_vocab_size(config.vocab_size)
    kinds = gguf.LlamaFileType
    writer.add_file_type(kinds.MOSTLY_Q8_0 if quantisation == "q8_0" else kinds.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _array(name: str, tensor: Tensor, config: Any, *, in_pairs: bool) -> NDArray[np.float32]:
    array = tensor.detach().to(torch.float32).cpu().numpy()
    if in_pairs and ".q_proj." in name:
        return np.ascontiguousarray(permuted(array, config.num_attention_heads))
    if in_pairs and ".k_proj." in name:
        return np.ascontiguousarray(permuted(array, config.num_key_value_heads))
    return array


def _packed(array: NDArray[np.float32], quantisation: str) -> tuple[NDArray[Any], Any]:
    import gguf

    kinds = gguf.GGMLQuantizationType
    if array.ndim < 2:
        return array, kinds.F32
    if quantisation == "q8_0" and array.shape[-1] % Q8_BLOCK == 0:
        return gguf.quants.quantize(array, kinds.Q8_0), kinds.Q8_0
    return array.astype(np.float16), kinds.F16


def _add_tokenizer(writer: Any, tokenizer: HFTokenizer, config: Any) -> None:
    import gguf

    inner = tokenizer.inner
    described = json.loads(inner.backend_tokenizer.to_str()) if getattr(inner, "backend_tokenizer", None) else {}
    model, pre = described.get("model", {}), _pre_tokenizer(described)
    if model.get("type") != "BPE" or pre is None:
        raise ModelError(
            "The tokenizer is not byte-level BPE, which is what GGUF is written for here: export it merged."
        )
    added = inner.added_tokens_decoder
    tokens, kinds = [], []
    for token_id in range(config.vocab_size):
        text = inner.convert_ids_to_tokens(token_id) if token_id < len(inner) else None
        if text is None:
            tokens.append(f"[PAD{token_id}]")
            kinds.append(gguf.TokenType.UNUSED)
        else:
            tokens.append(text)
            special = token_id in added and added[token_id].special
            kinds.append(
                gguf.TokenType.CONTROL
                if special
                else gguf.TokenType.USER_DEFINED
                if token_id in added
                else gguf.TokenType.NORMAL
            )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    for value, add in (
        (config.bos_token_id, writer.add_bos_token_id),
        (_first(config.eos_token_id), writer.add_eos_token_id),
        (inner.unk_token_id, writer.add_unk_token_id),
        (config.pad_token_id, writer.add_pad_token_id),
    ):
        if value is not None:
            add(value)
    writer.add_add_bos_token(False)
    if inner.chat_template:
        writer.add_chat_template(inner.chat_template)


def _pre_tokenizer(described: dict[str, Any]) -> str | None:
    """llama.cpp's name for the way in which this tokenizer cuts a text before it merges; None: not byte-level."""
    text = json.dumps(described.get("pre_tokenizer") or {})
    if "ByteLevel" not in text:
        return None
    if '"Digits"' in text:
        return "smollm"
    if r"\\p{N}{1,3}" in text:
        return "llama-bpe"
    if r"\\p{N}" in text:
        return "qwen2"
    return "gpt-2"


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value
