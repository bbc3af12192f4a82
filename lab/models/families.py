"""Where the parts of a transformer are, in each family of models.

All models that the lab looks into are stacks of blocks on a residual stream: a block's attention adds something to
the stream, then its feed-forward adds something. But every family gives these parts other names, and some put a
norm *behind* a branch, so that what is added is the norm's output and not the branch's. One `Layout` says it for
one family; `anatomy(model)` finds the layout that fits and hands out the parts under one set of names.

A family is recognised by what its blocks are made of, not by its name: a model whose blocks have one part more than
the layout knows might do something more, and every figure drawn from it could be wrong. Such a model is refused.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lab.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """The names of the parts in one family. Names of a block's parts are relative to the block."""

    family: str
    blocks: str
    parts: frozenset[str]
    """What a block of this family is made of: exactly these."""
    attention: str
    """The attention module; its output holds the weights, unless `weights` names another module."""
    attention_adds: str
    """The module whose output attention adds to the stream."""
    feed_forward_adds: str
    heads_meet: str
    """The layer that reads all heads side by side and mixes them: its input is [batch, pos, head × d_head]."""
    embedding: str
    final_norm: str
    output: str
    weights: str = ""
    parallel: bool | str = False
    """Both branches read the block's input, so that no point lies between them. A name: the attribute that says."""


_LLAMA = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
_PRE_FEED_FORWARD, _POST_FEED_FORWARD = "pre_feedforward_layernorm", "post_feedforward_layernorm"


def _decoder(family: str, parts: frozenset[str], **names: Any) -> Layout:
    """A layout with the names that Llama began and most followed."""
    usual: dict[str, Any] = {
        "blocks": "model.layers",
        "attention": "self_attn",
        "attention_adds": "self_attn",
        "feed_forward_adds": "mlp",
        "heads_meet": "self_attn.o_proj",
        "embedding": "model.embed_tokens",
        "final_norm": "model.norm",
        "output": "lm_head",
    }
    return Layout(family=family, parts=parts, **{**usual, **names})


def _gpt2(family: str, parts: frozenset[str], **names: Any) -> Layout:
    usual: dict[str, Any] = {
        "blocks": "transformer.h",
        "attention": "attn",
        "attention_adds": "attn",
        "feed_forward_adds": "mlp",
        "embedding": "transformer.wte",
        "final_norm": "transformer.ln_f",
        "output": "lm_head",
    }
    return Layout(family=family, parts=parts, **{**usual, **names})


LAYOUTS = (
    Layout(
        family="lab",
        blocks="trf_blocks",
        parts=frozenset({"norm1", "att", "norm2", "ff", "drop_att", "drop_ff"}),
        attention="att",
        weights="att.dropout",
        attention_adds="drop_att",
        feed_forward_adds="drop_ff",
        heads_meet="att.out_proj",
        embedding="tok_emb",
        final_norm="final_norm",
        output="out_head",
    ),
    _gpt2("GPT-2", frozenset({"ln_1", "attn", "ln_2", "mlp"}), heads_meet="attn.c_proj"),
    _gpt2("GPT-J", frozenset({"ln_1", "attn", "mlp"}), heads_meet="attn.out_proj", parallel=True),
    _decoder("Llama", _LLAMA),  # also Mistral, SmolLM2, Qwen 2, 2.5 and 3
    _decoder(
        "Gemma",  # 2 and 3: a norm before *and* behind each branch
        _LLAMA | {_PRE_FEED_FORWARD, _POST_FEED_FORWARD},
        attention_adds="post_attention_layernorm",
        feed_forward_adds=_POST_FEED_FORWARD,
    ),
    _decoder(
        "OLMo 2",  # a norm behind each branch only
        frozenset({"self_attn", "mlp", "post_attention_layernorm", _POST_FEED_FORWARD}),
        attention_adds="post_attention_layernorm",
        feed_forward_adds=_POST_FEED_FORWARD,
    ),
    _decoder(
        "Phi",  # one norm for both branches
        frozenset({"self_attn", "mlp", "input_layernorm", "resid_dropout"}),
        heads_meet="self_attn.dense",
        final_norm="model.final_layernorm",
        parallel=True,
    ),
    _decoder(
        "Phi-3",
        _LLAMA | {"resid_attn_dropout", "resid_mlp_dropout"},
        attention_adds="resid_attn_dropout",
        feed_forward_adds="resid_mlp_dropout",
    ),
    _decoder(
        "GPT-NeoX",  # Pythia
        frozenset(
            {"input_layernorm", "post_attention_layernorm", "post_attention_dropout", "post_mlp_dropout"}
            | {"attention", "mlp"}
        ),
        blocks="gpt_neox.layers",
        attention="attention",
        attention_adds="post_attention_dropout",
        feed_forward_adds="post_mlp_dropout",
        heads_meet="attention.dense",
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        parallel="use_parallel_residual",
    ),
)


@dataclass(frozen=True)
class Block:
    """The parts of one layer that hooks hold on to."""

    module: nn.Module
    attention: nn.Module
    weights: nn.Module
    """Its output is, or holds as second entry, the attention weights [batch, head, query_pos, key_pos]."""
    attention_adds: nn.Module
    feed_forward_adds: nn.Module
    heads_meet: nn.Module
    window: int | None
    """A query sees at most this many keys, its own included; None: all earlier ones."""


@dataclass(frozen=True)
class Anatomy:
    """A model's parts and sizes, under the same names for every family."""

    model: nn.Module
    """What is called with token ids; around `blocks` an adapter's wrapper may lie."""
    family: str
    parallel: bool
    """Both branches of a block read the block's input: the point post_attn exists on paper only."""
    blocks: tuple[Block, ...]
    embedding: nn.Module
    final_norm: nn.Module
    output: nn.Module
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    vocab_size: int
    context_length: int
    softcap: float | None
    """Gemma 2 bends its logits: softcap · tanh(logits / softcap)."""

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def is_ours(self) -> bool:
        """Whether it is the lab's own GPTModel."""
        return self.family == "lab"

    @property
    def device(self) -> torch.device:
        return next(self.embedding.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the residual stream, also where the weights are quantised."""
        return next(self.final_norm.parameters()).dtype

    @property
    def windows(self) -> list[int | None]:
        """How many keys a query of each layer sees at most; None: all earlier ones."""
        return [block.window for block in self.blocks]

    def logits_of(self, stream: Tensor) -> Tensor:
        """Read a point of the stream as if it were the last one: [..., d_model] -> [..., vocab].

        On post_ffn of the last layer these are the model's logits; on earlier points this is the logit lens.
        """
        logits = self.output(self.final_norm(stream))
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def __call__(self, ids: Tensor, *, last_only: bool = False) -> Tensor:
        """int64 [batch, pos] -> logits [batch, pos, vocab], or of the last position only: [batch, 1, vocab]."""
        if self.is_ours:
            hidden = self.model.hidden(ids)  # type: ignore[operator]
            return self.output(hidden[:, -1:] if last_only else hidden)
        keep = {"logits_to_keep": 1} if last_only and self._can_keep_few else {}
        logits = self.model(input_ids=ids, use_cache=False, **keep).logits
        return logits[:, -1:] if last_only else logits

    @property
    def _can_keep_few(self) -> bool:
        return "logits_to_keep" in inspect.signature(unwrapped(self.model).forward).parameters

    @contextmanager
    def showing_weights(self) -> Iterator[None]:
        """Make the model compute its attention weights where one can see them, without dropout; then as it was.

        Fused kernels never store the weights, so while looking the plain way is taken. Its numbers differ from
        the fused ones by rounding only.
        """
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        before = self._attention_way()
        self._take_way("manual" if self.is_ours else "eager")
        try:
            yield
        finally:
            self._take_way(before)
            for module in training:
                module.training = True

    def _attention_way(self) -> str:
        if self.is_ours:
            return self.blocks[0].attention.attention_impl  # type: ignore[return-value]
        return _text_config(self.model)._attn_implementation

    def _take_way(self, way: str) -> None:
        if self._attention_way() == way:
            return
        if self.is_ours:
            for block in self.blocks:
                block.attention.attention_impl = way  # type: ignore[assignment]
        else:
            unwrapped(self.model).set_attn_implementation(way)  # type: ignore[operator]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside PEFT's wrapper, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if inner is not None else model


def anatomy(model: nn.Module) -> Anatomy:
    """The parts of a causal language model.

    Raises:
        ModelError: it is built in a way that no layout describes; the sentence says what its blocks are made of.
    """
    inner = unwrapped(model)
    layout = _layout_of(inner)
    parallel = layout.parallel
    modules = list(inner.get_submodule(layout.blocks).children())
    if isinstance(parallel, str):
        parallel = bool(getattr(modules[0], parallel))
    sizes = _our_sizes(inner) if layout.family == "lab" else _sizes(inner)
    windows = sizes.pop("windows")
    blocks = tuple(
        Block(
            module=block,
            attention=block.get_submodule(layout.attention),
            weights=block.get_submodule(layout.weights or layout.attention),
            attention_adds=block.get_submodule(layout.attention_adds),
            feed_forward_adds=block.get_submodule(layout.feed_forward_adds),
            heads_meet=block.get_submodule(layout.heads_meet),
            window=window,
        )
        for block, window in zip(modules, windows, strict=True)
    )
    return Anatomy(
        model=model,
        family=layout.family,
        parallel=parallel,
        blocks=blocks,
        embedding=inner.get_submodule(layout.embedding),
        final_norm=inner.get_submodule(layout.final_norm),
        output=inner.get_submodule(layout.output),
        **sizes,
    )


def _layout_of(model: nn.Module) -> Layout:
    seen: set[str] = set()
    for layout in LAYOUTS:
        try:
            blocks = list(model.get_submodule(layout.blocks).children())
            for name in (layout.embedding, layout.final_norm, layout.output):
                model.get_submodule(name)
        except AttributeError:
            continue
        kinds = {frozenset(name for name, _ in block.named_children()) for block in blocks}
        if kinds == {layout.parts}:
            return layout
        seen |= {name for kind in kinds for name in kind}
    made_of = f"its blocks are made of {', '.join(sorted(seen))}" if seen else "its blocks are not where we look"
    families = ", ".join(layout.family for layout in LAYOUTS[1:])
    raise ModelError(
        f"{type(model).__name__} cannot be looked into: {made_of}, which fits no family that the lab knows "
        f"({families}, and its own GPT). It can still write text."
    )


def _our_sizes(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    return {
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_heads,
        "d_model": config.emb_dim,
        "d_head": config.emb_dim // config.n_heads,
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "softcap": None,
        "windows": [None] * config.n_layers,
    }


def _sizes(model: nn.Module) -> dict[str, Any]:
    config = _text_config(model)
    n_heads = config.num_attention_heads
    return {
        "n_heads": n_heads,
        "n_kv_heads": getattr(config, "num_key_value_heads", None) or n_heads,
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "softcap": getattr(config, "final_logit_softcapping", None),
        "windows": _windows(config),
    }


def _windows(config: Any) -> list[int | None]:
    """How far each layer looks back. Some families alternate between all keys and a sliding window of them."""
    width = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if width else "full_attention"]
    kinds = list(kinds) * (config.num_hidden_layers if len(kinds) == 1 else 1)
    return [width if kind == "sliding_attention" else None for kind in kinds]


def _text_config(model: nn.Module) -> Any:
    config: Any = unwrapped(model).config
    return config.get_text_config()
