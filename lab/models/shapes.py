"""How large a model is, by arithmetic: its parameters from its shape, its memory from its parameters."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "8bit", "4bit"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "8bit", "4bit")

# bitsandbytes' NF4 as we use it: half a byte a weight, one scale for 64 weights, itself kept in 8 bits, and for 256 of
# those scales one number of 32 bits.
_BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
_BYTES_8BIT = 1.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides the number of parameters of a decoder-only transformer."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    d_head: int
    feed_forward: int
    vocab: int
    context: int
    tied: bool = True
    gated: bool = True
    """Three matrices in the feed-forward (a gate, up and down) instead of two."""
    qkv_bias: bool = False
    biases: bool = False
    """On every layer and norm, as in GPT-2 and NeoX."""
    positions: bool = False
    """A learned table of positions."""
    norms: int = 2
    """In each block."""
    head_norms: bool = False
    """A norm on each head's queries and keys."""

    @property
    def linear(self) -> int:
        """Weights in the layers that 8 and 4 bits shrink: the matrices inside the blocks."""
        reads = self.width * self.d_head * (self.heads + 2 * self.kv_heads)
        writes = self.heads * self.d_head * self.width
        feed_forward = (3 if self.gated else 2) * self.width * self.feed_forward
        return self.layers * (reads + writes + feed_forward)

    @property
    def parameters(self) -> int:
        """All of them; a matrix that is used twice counts once."""
        tables = self.vocab * self.width * (1 if self.tied else 2) + self.positions * self.context * self.width
        norm = self.width * (2 if self.biases else 1)
        block = self.norms * norm + 2 * self.d_head * self.head_norms
        if self.qkv_bias or self.biases:
            block += self.d_head * (self.heads + 2 * self.kv_heads)
        if self.biases:
            block += self.width + self.feed_forward + self.width
        return tables + self.linear + self.layers * block + norm

    def memory(self) -> dict[Precision, int]:
        """Bytes of the weights in each precision."""
        return {precision: weight_bytes(self.parameters, self.linear, precision) for precision in PRECISIONS}


def weight_bytes(parameters: int, linear: int, precision: Precision) -> int:
    """Bytes of a model's weights.

    Args:
        linear: how many of the parameters stand in matrices that 8 and 4 bits shrink; the others stay in bf16.
    """
    if precision == "fp32":
        return 4 * parameters
    if precision == "bf16":
        return 2 * parameters
    each = _BYTES_8BIT if precision == "8bit" else _BYTES_4BIT
    return int(2 * (parameters - linear) + each * linear)
