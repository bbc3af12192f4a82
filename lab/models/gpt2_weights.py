"""GPT-2's weights in and out: a local Hugging Face folder <-> our GPTModel.

Our medium preset *is* GPT-2 small, so its published weights fit. Three things are written differently there:

    theirs (transformers' GPT2LMHeadModel)            ours
    Conv1D: weight [inputs, outputs]                  nn.Linear: weight [outputs, inputs], the transpose
    attn.c_attn: query, key and value in one matrix   att.W_query, att.W_key, att.W_value
    lm_head.weight left out when it is tied           out_head.weight, the same tensor as tok_emb.weight

A folder holds config.json (the shape) and model.safetensors (the weights; large ones in parts, with an index).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.config import GPTConfig
from lab.errors import LabError, ModelError
from lab.files import read_json, write_atomically, write_json
from lab.models.gpt import AttentionImpl, GPTModel

# Settings of GPT2Config that our model has built in: a folder that says otherwise computes something else.
_BUILT_IN: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
_END_OF_TEXT = 50_256  # in GPT-2's own vocabulary of 50,257

# our name -> theirs, within a block
_LINEAR = {"att.out_proj": "attn.c_proj", "ff.layers.0": "mlp.c_fc", "ff.layers.2": "mlp.c_proj"}
_NORM = {"norm1": "ln_1", "norm2": "ln_2"}
_QUERY_KEY_VALUE = ("att.W_query", "att.W_key", "att.W_value")


def load_gpt2(folder: str | Path, *, attention_impl: AttentionImpl = "sdpa") -> GPTModel:
    """A GPTModel in fp32 on the CPU, in eval mode, with the folder's weights; its shape is `.config`.

    Raises:
        ModelError: the folder is not there, is of another architecture, lacks a tensor, or has one of a wrong shape.
    """
    folder = Path(folder)
    config = read_config(folder)
    theirs = _Tensors(_read_tensors(folder), folder)
    if not config.qkv_bias and theirs.has_query_key_value_bias():  # our export, trained on elsewhere
        config = config.model_copy(update={"qkv_bias": True})
    with torch.device("meta"):  # no random draws for weights that are replaced at once
        model = GPTModel(config, attention_impl=attention_impl)
    model = model.to(torch.float32).to_empty(device="cpu")
    model.tie_weights()
    model.load_state_dict(dict(_ours(config, theirs)))
    return model.eval()


def export_gpt2(model: GPTModel, folder: str | Path) -> Path:
    """Write config.json and model.safetensors so that `GPT2LMHeadModel.from_pretrained(folder)` loads them.

    GPT-2 always has a bias on query, key and value; a model without exports zeros, which add nothing.

    Returns:
        The folder.

    Raises:
        LabError: it cannot be written.
    """
    folder = Path(folder)
    # safetensors wants each tensor whole and for itself: no views, no shared memory
    tensors = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in _theirs(model)}

    def write(path: Path) -> None:
        try:
            save_file(tensors, path, metadata={"format": "pt"})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error

    write_atomically(folder / "model.safetensors", write)
    write_json(folder / "config.json", _config_json(model.config))
    return folder


def read_config(folder: Path) -> GPTConfig:
    """The shape that the folder's config.json describes.

    Raises:
        ModelError: there is none, it is not GPT-2's, or it asks for something that our model does not do.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a Hugging Face model folder: it has no config.json.")
    try:
        raw = read_json(folder / "config.json")
    except LabError as error:
        raise ModelError(str(error)) from error
    found = raw.get("model_type") if isinstance(raw, dict) else None
    if found != "gpt2":
        raise ModelError(f"{folder} holds a model of type {found!r}, but only 'gpt2' fits into GPTModel.")
    for name, accepted in _BUILT_IN.items():
        if raw.get(name, accepted[0]) not in accepted:
            raise ModelError(f"{folder} has {name} = {raw[name]!r}, but GPTModel can only do {accepted[0]!r}.")
    try:
        width = raw.get("n_embd", 768)
        if raw.get("n_inner") not in (None, 4 * width):
            raise ModelError(
                f"{folder} has a feed-forward of width {raw['n_inner']!r} (n_inner), "
                f"but GPTModel's is 4 × {width} = {4 * width}."
            )
        config = GPTConfig(
            vocab_size=raw.get("vocab_size", 50_257),
            context_length=raw.get("n_positions", 1024),
            emb_dim=width,
            n_layers=raw.get("n_layer", 12),
            n_heads=raw.get("n_head", 12),
            drop_rate=raw.get("resid_pdrop", 0.1),
            attention_drop_rate=raw.get("attn_pdrop", 0.1),
            qkv_bias=raw.get("qkv_bias", True),  # ours: says that the zeros in the file stand for "no bias"
            tie_embeddings=raw.get("tie_word_embeddings", True),
        )
    except (ValidationError, TypeError) as error:
        raise ModelError(f"{folder / 'config.json'} does not describe a GPT-2: {_first_mistake(error)}.") from error
    if config.emb_dim % config.n_heads:
        raise ModelError(f"{folder} has width {config.emb_dim}, which its {config.n_heads} heads cannot share evenly.")
    return config


class _Tensors:
    """Tensors of a folder by GPT-2's names, with their shapes checked."""

    def __init__(self, tensors: dict[str, Tensor], folder: Path):
        # OpenAI's own files name the trunk's tensors without "transformer." before them
        self.tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        self.folder = folder

    def take(self, name: str, *shape: int) -> Tensor:
        """Raises ModelError where it is missing or has another shape."""
        if name not in self.tensors:
            raise ModelError(f"{self.folder} lacks {name}, which its config.json promises; copy the folder again.")
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise ModelError(
                f"{name} in {self.folder} has shape {list(tensor.shape)}, but its config.json asks for {list(shape)}."
            )
        return tensor.float()

    def has_query_key_value_bias(self) -> bool:
        """Whether any bias of query, key or value is other than 0."""
        return any(tensor.any() for name, tensor in self.tensors.items() if name.endswith("attn.c_attn.bias"))


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        files = sorted(set(read_json(index).get("weight_map", {}).values()))
    else:
        raise ModelError(
            f"{folder} has no model.safetensors; save the model with transformers' save_pretrained, which writes one."
        )
    tensors: dict[str, Tensor] = {}
    for name in files:
        try:
            tensors.update(load_file(folder / name))
        except FileNotFoundError as error:
            raise ModelError(f"{folder} lacks {name}, which its index names; copy the folder again.") from error
        except SafetensorError as error:
            raise ModelError(f"{folder / name} is damaged ({error}); copy it again.") from error
    return tensors


def _ours(config: GPTConfig, theirs: _Tensors) -> Iterator[tuple[str, Tensor]]:
    """Our state dict, tensor by tensor, from theirs."""
    C = config.emb_dim
    sizes = {"att.out_proj": (C, C), "ff.layers.0": (C, 4 * C), "ff.layers.2": (4 * C, C)}  # inputs, outputs
    yield "tok_emb.weight", theirs.take("wte.weight", config.vocab_size, C)
    yield "pos_emb.weight", theirs.take("wpe.weight", config.context_length, C)
    for layer in range(config.n_layers):
        block, h = f"trf_blocks.{layer}", f"h.{layer}"
        weights = theirs.take(f"{h}.attn.c_attn.weight", C, 3 * C).split(C, dim=1)  # three of [C, C]
        biases = theirs.take(f"{h}.attn.c_attn.bias", 3 * C).split(C)  # three of [C]
        for name, weight, bias in zip(_QUERY_KEY_VALUE, weights, biases, strict=True):
            yield f"{block}.{name}.weight", weight.T
            if config.qkv_bias:
                yield f"{block}.{name}.bias", bias
        for name, (inputs, outputs) in sizes.items():
            yield f"{block}.{name}.weight", theirs.take(f"{h}.{_LINEAR[name]}.weight", inputs, outputs).T
            yield f"{block}.{name}.bias", theirs.take(f"{h}.{_LINEAR[name]}.bias", outputs)
        for name, their_name in _NORM.items():
            yield f"{block}.{name}.weight", theirs.take(f"{h}.{their_name}.weight", C)
            yield f"{block}.{name}.bias", theirs.take(f"{h}.{their_name}.bias", C)
    yield "final_norm.weight", theirs.take("ln_f.weight", C)
    yield "final_norm.bias", theirs.take("ln_f.bias", C)
    head = "wte.weight" if config.tie_embeddings else "lm_head.weight"
    yield "out_head.weight", theirs.take(head, config.vocab_size, C)


def _theirs(model: GPTModel) -> Iterator[tuple[str, Tensor]]:
    """Their state dict, tensor by tensor, from our model."""
    yield "transformer.wte.weight", model.tok_emb.weight
    yield "transformer.wpe.weight", model.pos_emb.weight
    for layer, block in enumerate(model.trf_blocks):
        h = f"transformer.h.{layer}"
        own = block.state_dict()
        weights = [own[f"{name}.weight"] for name in _QUERY_KEY_VALUE]
        no_bias = weights[0].new_zeros(model.config.emb_dim)
        biases = [own.get(f"{name}.bias", no_bias) for name in _QUERY_KEY_VALUE]
        yield f"{h}.attn.c_attn.weight", torch.cat(weights).T  # [3C, C] -> [C, 3C]
        yield f"{h}.attn.c_attn.bias", torch.cat(biases)
        for name, their_name in _LINEAR.items():
            yield f"{h}.{their_name}.weight", own[f"{name}.weight"].T
            yield f"{h}.{their_name}.bias", own[f"{name}.bias"]
        for name, their_name in _NORM.items():
            yield f"{h}.{their_name}.weight", own[f"{name}.weight"]
            yield f"{h}.{their_name}.bias", own[f"{name}.bias"]
    yield "transformer.ln_f.weight", model.final_norm.weight
    yield "transformer.ln_f.bias", model.final_norm.bias
    if not model.config.tie_embeddings:
        yield "lm_head.weight", model.out_head.weight


def _config_json(config: GPTConfig) -> dict[str, Any]:
    """GPT2Config's content. A vocabulary other than GPT-2's has no end-of-text token at its place."""
    end = _END_OF_TEXT if config.vocab_size == _END_OF_TEXT + 1 else None
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.emb_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.drop_rate,
        "embd_pdrop": config.drop_rate,
        "attn_pdrop": config.attention_drop_rate,
        "tie_word_embeddings": config.tie_embeddings,
        "qkv_bias": config.qkv_bias,  # transformers ignores it; we read it back
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": "float32",
    }


def _first_mistake(error: ValidationError | TypeError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{first['loc'][0]} is {first['input']!r}, {first['msg'].lower()}"
    return str(error)
