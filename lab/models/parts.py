"""What a GPT is made of, counted without building it: parameters, arithmetic and bytes from its shape alone.

Everything here is a sum over `tensors(config)`, the list of the model's weights, so the figures beside the form move
with the knobs at once and torch need not be loaded. The tests hold the list against the real model and optimizers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from lab.config import GPTConfig

Part = Literal["token_embedding", "position_embedding", "attention", "feed_forward", "norms", "output_layer"]
PARTS: tuple[Part, ...] = (
    "token_embedding",
    "position_embedding",
    "attention",
    "feed_forward",
    "norms",
    "output_layer",
)

_FP32 = 4  # bytes: the lab keeps weights, gradients and AdamW's averages in 32 bits; precision is about the products

# bitsandbytes' rule for 8-bit optimizers (bitsandbytes/optim/optimizer.py, Optimizer2State.init_state, 0.50):
_MIN_8BIT_ELEMENTS = 4096  # a smaller tensor keeps its state in fp32
_BLOCK_ELEMENTS = 256  # each block of state bytes shares one fp32 scale, its largest absolute value
_CODE_BOOK_BYTES = 256 * _FP32  # what each of the 256 byte values stands for; one book for all tensors of a state


@dataclass(frozen=True)
class WeightTensor:
    """One weight tensor: its name in the model's state dict, its shape, and the part it is counted in."""

    name: str
    shape: tuple[int, ...]
    part: Part

    @property
    def elements(self) -> int:
        return prod(self.shape)


def tensors(config: GPTConfig) -> Iterator[WeightTensor]:
    """Every weight tensor of the model, each once: a tied output layer is the token embedding and not listed again."""
    width = config.emb_dim
    yield WeightTensor("tok_emb.weight", (config.vocab_size, width), "token_embedding")
    yield WeightTensor("pos_emb.weight", (config.context_length, width), "position_embedding")
    for layer in range(config.n_layers):
        block = f"trf_blocks.{layer}"
        for name in ("W_query", "W_key", "W_value"):
            yield from _linear(f"{block}.att.{name}", width, width, "attention", bias=config.qkv_bias)
        yield from _linear(f"{block}.att.out_proj", width, width, "attention")
        yield from _linear(f"{block}.ff.layers.0", width, 4 * width, "feed_forward")
        yield from _linear(f"{block}.ff.layers.2", 4 * width, width, "feed_forward")
        yield from _norm(f"{block}.norm1", width)
        yield from _norm(f"{block}.norm2", width)
    yield from _norm("final_norm", width)
    if not config.tie_embeddings:
        yield WeightTensor("out_head.weight", (config.vocab_size, width), "output_layer")


def parameter_counts(config: GPTConfig) -> dict[str, int]:
    """Parameters by part, and their "total". With a tied output layer, "output_layer" is 0: it adds none."""
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for tensor in tensors(config):
        counts[tensor.part] += tensor.elements
    return {**counts, "total": sum(counts.values())}


def training_flops_per_token(config: GPTConfig) -> int:
    """Floating point operations that one training token costs, forward and backward: what MFU divides by.

    6·N + 12·L·H·Q·T, as in appendix B of the PaLM paper (Chowdhery et al., 2022, arXiv:2204.02311), with L layers,
    H heads of width Q, and T tokens of context.

    - N counts the weights that stand in a matrix product: those of attention, feed-forward and output layer, the
      output layer also when it is tied. Embeddings are looked up and biases and norms are added, which costs next
      to nothing. Each such weight costs a multiplication and an addition in the forward pass and twice that in the
      backward pass.
    - 12·L·H·Q·T are the two products of attention, queries with keys and weights with values. Following the paper, the
      whole T × T square is counted although the causal mask uses half of it.
    - What gradient checkpointing computes again does not count: MFU is about useful work.
    """
    return 6 * _matrix_weights(config) + 12 * config.n_layers * config.emb_dim * config.context_length


def state_bytes(config: GPTConfig, optimizer: str = "adamw") -> dict[str, int]:
    """Exact bytes of what stays through the whole training: weights, gradients, optimizer state, and their total.

    Not the peak of a step: activations and logits come on top of it. The weights are fp32 in every precision (autocast
    makes its 16-bit copies as it goes), and so are the gradients.

    Args:
        optimizer: "adamw" (two fp32 averages per parameter, and a step counter of 4 bytes per tensor) or "adamw_8bit".

    Raises:
        ValueError: no such optimizer.
    """
    sizes = [tensor.elements for tensor in tensors(config)]
    weights = _FP32 * sum(sizes)
    if optimizer == "adamw":
        state = sum(2 * _FP32 * size + _FP32 for size in sizes)
    elif optimizer == "adamw_8bit":
        state = sum(_state_bytes_8bit(size) for size in sizes)
        if any(size >= _MIN_8BIT_ELEMENTS for size in sizes):
            state += 2 * _CODE_BOOK_BYTES
    else:
        raise ValueError(f"no rule for the state of optimizer {optimizer!r}")
    return {"weights": weights, "gradients": weights, "optimizer": state, "total": 2 * weights + state}


def _state_bytes_8bit(elements: int) -> int:
    """Bytes of both averages of one tensor under bitsandbytes' AdamW8bit, without the shared code books."""
    if elements < _MIN_8BIT_ELEMENTS:
        return 2 * _FP32 * elements
    blocks = -(-elements // _BLOCK_ELEMENTS)
    return 2 * (elements + _FP32 * blocks)


def _matrix_weights(config: GPTConfig) -> int:
    """Weights that a token is multiplied with on its way to the logits."""
    in_blocks = sum(
        tensor.elements
        for tensor in tensors(config)
        if tensor.part in ("attention", "feed_forward") and len(tensor.shape) == 2
    )
    return in_blocks + config.vocab_size * config.emb_dim


def _linear(name: str, inputs: int, outputs: int, part: Part, *, bias: bool = True) -> Iterator[WeightTensor]:
    yield WeightTensor(f"{name}.weight", (outputs, inputs), part)
    if bias:
        yield WeightTensor(f"{name}.bias", (outputs,), part)


def _norm(name: str, width: int) -> Iterator[WeightTensor]:
    yield WeightTensor(f"{name}.weight", (width,), "norms")
    yield WeightTensor(f"{name}.bias", (width,), "norms")
