"""A decoder-only transformer, written to be read. Start at `GPTModel.hidden` and follow the calls.

Shapes are named once: B sequences in the batch, T positions (tokens) in each, C = emb_dim numbers per
position, H heads of D = C / H numbers each, V tokens in the vocabulary.

The design is GPT-2's (Radford et al. 2019), with the class names of *Build a Large Language Model (From
Scratch)* (Raschka 2024). Query, key and value are separate layers, and each block has one attention and one
feed-forward module, so that hooks and LoRA have a place to hold on to.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lab.config import GPTConfig

AttentionImpl = Literal["sdpa", "manual"]


@dataclass
class KVCache:
    """Keys and values of the positions already read, so that writing one more token reads only that one.

    Entry `i` of each list belongs to block `i` and has shape [B, H, positions so far, D].
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Positions held."""
        return self.keys[0].shape[2] if self.keys else 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new positions of one block; returns all of its keys and values."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], keys], dim=2)
            self.values[layer] = torch.cat([self.values[layer], values], dim=2)
        return self.keys[layer], self.values[layer]


class MultiHeadAttention(nn.Module):
    """Lets each position fetch information from earlier ones: the only place where positions meet.

    Each position makes a *query* (what am I looking for?), a *key* (what do I have to offer?) and a *value*
    (what do I hand over if somebody picks me?). The match of a query with all earlier keys becomes a set of
    weights that sum to 1, and the position receives that mixture of values. Several heads do this side by
    side, each on its own slice of the width, so that one can look at the previous word while another looks
    for the matching bracket.
    """

    def __init__(self, config: GPTConfig, attention_impl: AttentionImpl = "sdpa", layer: int = 0):
        super().__init__()
        width = config.emb_dim
        self.n_heads = config.n_heads
        self.d_head = width // config.n_heads
        self.attention_impl = attention_impl
        self.layer = layer
        self.W_query = nn.Linear(width, width, bias=config.qkv_bias)
        self.W_key = nn.Linear(width, width, bias=config.qkv_bias)
        self.W_value = nn.Linear(width, width, bias=config.qkv_bias)
        self.out_proj = nn.Linear(width, width)  # mixes what the heads brought back
        self.dropout = nn.Dropout(config.attention_drop_rate)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C], what attention adds to the stream."""
        B, T, C = x.shape
        queries = self._split(self.W_query(x))  # [B, H, T, D]
        keys = self._split(self.W_key(x))
        values = self._split(self.W_value(x))
        if cache is not None:
            keys, values = cache.extend(self.layer, keys, values)  # [B, H, S, D], S = earlier positions + T
        if self.takes_manual_path:
            mixed = self.weights(queries, keys) @ values  # [B, H, T, S] @ [B, H, S, D] -> [B, H, T, D]
        else:
            mixed = fused_attention(queries, keys, values)
        return self.out_proj(mixed.transpose(1, 2).reshape(B, T, C))  # heads side by side again

    @property
    def takes_manual_path(self) -> bool:
        """The fused kernel would draw its dropout from the generator that all threads share, so attention
        dropout is done by hand."""
        return self.attention_impl == "manual" or (self.training and self.dropout.p > 0)

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[B, H, T, D] and [B, H, S, D] -> [B, H, T, S]: how much each position takes from each earlier one."""
        # A sum of D products of numbers of size 1 has size √D. Without the division, wider heads would push
        # the softmax into its flat ends, where one weight is 1, the rest 0, and no gradient comes back.
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.d_head)
        # 16 bits are too few for a sum of exponentials: the softmax is done in 32.
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.masked_fill(future(queries, keys), -math.inf)  # e^-inf = 0: no weight on the future
        return self.dropout(torch.softmax(scores, dim=-1)).to(queries.dtype)

    def _split(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        return x.view(B, T, self.n_heads, self.d_head).transpose(1, 2)  # [B, T, C] -> [B, H, T, D]


def future(queries: Tensor, keys: Tensor) -> Tensor:
    """[T, S] of bool, True where the key lies after the query.

    Without this mask a position could read the very token it is asked to predict, and the loss would fall
    to nothing without anything having been learned. With a cache the T queries are the last of S positions.
    """
    T, S = queries.shape[-2], keys.shape[-2]
    query_pos = torch.arange(S - T, S, device=keys.device)
    key_pos = torch.arange(S, device=keys.device)
    return key_pos > query_pos[:, None]


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same sum as the manual path, by one PyTorch kernel that never stores the T × S weights."""
    T, S = queries.shape[-2], keys.shape[-2]
    if T == S:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=~future(queries, keys))


class FeedForward(nn.Module):
    """What each position does with what attention brought it, alone.

    Attention only mixes: its output is a weighted sum, linear in the values. Here the non-linear work is
    done, and most of what the model knows is stored: each of the 4 × C hidden units looks for a pattern in
    the stream (first layer), and writes something back when it sees it (second layer).
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        width = config.emb_dim
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),  # GPT-2's: a smooth gate, nearly 0 below zero, nearly x above
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C], what the feed-forward adds to the stream."""
        return self.layers(x)


class TransformerBlock(nn.Module):
    """Reads the residual stream twice and adds to it twice; it never overwrites.

    The stream [B, T, C] runs through the model from embedding to output. Attention adds what it fetched
    from earlier positions, the feed-forward adds what it makes of that. Because each branch only *adds*, a
    gradient flows back along the stream to every layer undiminished.
    """

    def __init__(self, config: GPTConfig, attention_impl: AttentionImpl = "sdpa", layer: int = 0):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.emb_dim)
        self.att = MultiHeadAttention(config, attention_impl, layer)
        self.norm2 = nn.LayerNorm(config.emb_dim)
        self.ff = FeedForward(config)
        # Two modules although both do the same: in training each dropout's mask is seeded by its module's name
        # (lab/training/dropout.py), and one module used twice would hide the same numbers in both branches.
        self.drop_att = nn.Dropout(config.drop_rate)
        self.drop_ff = nn.Dropout(config.drop_rate)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        # Pre-norm: each branch reads a copy of the stream scaled to unit size, and the stream itself stays
        # untouched. Norms *on* the stream (post-norm, the 2017 design) shrink the gradient at every layer
        # and need a long warm-up to train at all (Xiong et al. 2020).
        x = x + self.drop_att(self.att(self.norm1(x), cache))
        x = x + self.drop_ff(self.ff(self.norm2(x)))
        return x


class GPTModel(nn.Module):
    """Token ids in, a score for every possible next token out, at each position.

    Args:
        config: the shape.
        attention_impl: "sdpa" (fused kernel) or "manual" (every step visible); the same numbers.
        gradient_checkpointing: in training, keep only each block's input and compute its inside again
            in the backward pass.
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        attention_impl: AttentionImpl = "sdpa",
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.tok_emb = nn.Embedding(config.vocab_size, config.emb_dim)  # what the token is
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)  # where it stands
        self.drop_emb = nn.Dropout(config.drop_rate)
        self.trf_blocks = nn.ModuleList(
            TransformerBlock(config, attention_impl, layer) for layer in range(config.n_layers)
        )
        self.final_norm = nn.LayerNorm(config.emb_dim)
        self.out_head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        self.tie_weights()
        self.initialise()

    def forward(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        """int64 [B, T] -> logits [B, T, V]. Softmax over V gives the probability of each next token."""
        return self.out_head(self.hidden(idx, cache))

    def hidden(self, idx: Tensor, cache: KVCache | None = None) -> Tensor:
        """int64 [B, T] -> [B, T, C], the stream after the final norm: what the output layer reads.

        With a cache, `idx` holds only the tokens that follow what the cache has seen.

        Raises:
            IndexError: more than context_length positions, or an id outside the vocabulary.
        """
        _, T = idx.shape
        seen = cache.length if cache is not None else 0
        positions = torch.arange(seen, seen + T, device=idx.device)
        x = self.drop_emb(self.tok_emb(idx) + self.pos_emb(positions))  # [B, T, C] + [T, C]
        for block in self.trf_blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=_draws_dropout(block))
            else:
                x = block(x, cache)
        return self.final_norm(x)

    def tie_weights(self) -> None:
        """Make the output layer share the embedding's matrix, where the config says so."""
        if self.config.tie_embeddings:
            self.out_head.weight = self.tok_emb.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw the first weights as GPT-2 does: normal with standard deviation 0.02, biases 0, norms 1.

        The two layers of each block that write into the stream are scaled down by √(2 · n_layers): that many
        of them add up, and the stream should leave the last block as large as it entered the first.
        Small first logits mean a first loss close to ln V: the model knows nothing, and says so.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes_to_stream = name.endswith(("att.out_proj", "ff.layers.2"))
                scale = 1 / math.sqrt(2 * self.config.n_layers) if writes_to_stream else 1.0
                if not (name == "out_head" and self.config.tie_embeddings):  # already drawn
                    module.weight.normal_(0.0, 0.02 * scale, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()


def build_gpt(
    config: GPTConfig,
    *,
    seed: int,
    attention_impl: AttentionImpl = "sdpa",
    gradient_checkpointing: bool = False,
    device: torch.device | str = "cpu",
) -> GPTModel:
    """A fresh model whose weights depend on `seed` alone.

    It is laid out without memory first and filled from a generator of its own, always on the CPU: torch's
    default generator belongs to every thread of the process, and so does the default dtype.
    """
    model = unfilled_gpt(config, attention_impl=attention_impl)
    model.gradient_checkpointing = gradient_checkpointing
    model.initialise(torch.Generator().manual_seed(seed))
    return model.to(device)


def unfilled_gpt(config: GPTConfig, *, attention_impl: AttentionImpl = "sdpa") -> GPTModel:
    """A model on the CPU whose weights are whatever the memory held, for somebody who fills it at once."""
    with torch.device("meta"):
        model = GPTModel(config, attention_impl=attention_impl)
    model = model.to(torch.float32).to_empty(device="cpu")
    model.tie_weights()  # a new place in memory has to be shared anew
    return model


def _draws_dropout(block: nn.Module) -> bool:
    """Whether a recomputation has to replay torch's generator: only with plain `nn.Dropout` inside."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in block.modules())
