"""Looking inside a model while it reads: attention weights, and the residual stream at three points of each layer.

    stream ──●──────────────►(+)──●───────────────►(+)──●── next layer
             │ attention ─Δattn┘  │ feed-forward ─Δffn┘  │
          pre_attn            post_attn              post_ffn

Hooks (functions that PyTorch calls when a module has run) write down each block's input, what either branch added,
and the block's output. Nothing in the model is changed, and the hooks are removed whatever happens. While writing,
the capture checks itself (lab/analysis/checks.py); look at `capture.check.ok` before showing anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lab.analysis import checks
from lab.analysis.checks import Check, Checks
from lab.analysis.heads import head_stats
from lab.errors import ModelError
from lab.models.families import Anatomy, Block, anatomy

THREE_POINTS = ("pre_attn", "post_attn", "post_ffn")
DELTAS = ("delta_attn", "delta_ffn")
POINTS = THREE_POINTS + DELTAS

Summarise = Callable[[Tensor, Tensor, int | None], Mapping[str, Tensor]]
"""(weights [batch, head, query_pos, key_pos], ids [batch, pos], window) -> name -> [batch, head] or [head]."""


class Residual(Mapping[str, Tensor]):
    """The stream by point, each [layer, batch, pos, d_model].

    A block's output *is* the next block's input, so both are views of one tensor; and of post_attn and Δattn only
    one is kept, since the other is a sum away: pre + Δattn, in the order and format in which the model adds.
    """

    def __init__(self, stream: Tensor, kept: dict[str, Tensor], points: Sequence[str]):
        """
        Args:
            stream: [layer + 1, batch, pos, d_model], the inputs of all blocks and the output of the last.
            kept: delta_attn, delta_ffn, post_attn: those that are stored.
        """
        self.stream = stream
        self.kept = kept
        self._points = tuple(points)

    def __getitem__(self, point: str) -> Tensor:
        if point not in self._points:
            raise KeyError(f"{point!r} was not captured; there are {', '.join(self._points)}.")
        if point == "pre_attn":
            return self.stream[:-1]
        if point == "post_ffn":
            return self.stream[1:]
        if point == "post_attn" and point not in self.kept:
            return self.stream[:-1] + self.kept["delta_attn"]
        return self.kept[point]

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)


@dataclass(frozen=True)
class Capture:
    """What a model did while it read one text."""

    ids: Tensor
    """int64 [batch, pos]"""
    logits: Tensor
    """[batch, pos, vocab], or [batch, 1, vocab] where only the last position's were asked for."""
    attention: Sequence[Tensor]
    """One per layer: [batch, head, query_pos, key_pos]. Empty in a summary."""
    heads: Mapping[tuple[int, int], Tensor]
    """Chosen heads of a summary by (layer, head): [batch, query_pos, key_pos]."""
    summary: Mapping[str, Tensor]
    """Figures of each head, by name: [layer, head], or [layer, batch, head]; only in a summary."""
    residual: Residual
    check: Checks
    family: str
    virtual: frozenset[str]
    """Points that exist on paper only: in a parallel block both branches read pre_attn, and nothing ever stands
    between them."""
    windows: tuple[int | None, ...]

    @property
    def n_layers(self) -> int:
        return self.residual.stream.shape[0] - 1

    def pattern(self, layer: int, head: int) -> Tensor:
        """One head's weights: [batch, query_pos, key_pos].

        Raises:
            ModelError: this capture keeps summaries, and that head was not chosen.
        """
        if self.attention:
            return self.attention[layer][:, head]
        if (layer, head) in self.heads:
            return self.heads[layer, head]
        raise ModelError(
            f"This capture keeps figures only, not the weights of head {head} in layer {layer}: choose that head "
            "before the text is read, or take a shorter text."
        )

    @property
    def bytes(self) -> int:
        """Memory that this capture holds."""
        tensors = [self.ids, self.logits, *self.attention, *self.heads.values(), *self.summary.values()]
        tensors += [self.residual.stream, *self.residual.kept.values()]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def capture(
    model: nn.Module | Anatomy,
    ids: Tensor,
    *,
    points: Sequence[str] = POINTS,
    keep: Literal["all", "summary"] | Sequence[tuple[int, int]] = "all",
    logits: Literal["all", "last"] = "all",
    summarise: Summarise | None = None,
) -> Capture:
    """Let a model read `ids` and write down what happens inside.

    Args:
        ids: int64 [batch, pos], no padding.
        points: which of pre_attn, post_attn, post_ffn, delta_attn, delta_ffn to keep. The three points take as
            much memory as three tensors less one layer; the deltas one more.
        keep: "all" attention weights (layers × heads × pos² numbers), or a "summary": figures of each head made layer
            by layer. A list of (layer, head) is a summary that also keeps those heads' weights.
        logits: "last" keeps those of the last position only; with a large vocabulary they are most of the memory.
        summarise: the figures of a summary; entropy, distance, sink share and head scores when left out.

    Raises:
        ModelError: the model's family is unknown, the text is empty or longer than its context, or its blocks do
            not pass a plain stream on.
    """
    parts = model if isinstance(model, Anatomy) else anatomy(model)
    _check_ids(parts, ids)
    recorder = _Recorder(parts, ids, tuple(points), keep, summarise or _figures)
    with torch.no_grad(), parts.showing_weights(), ExitStack() as hooks:
        recorder.attach(hooks)
        out = parts(ids, last_only=logits == "last")
        last = parts.logits_of(recorder.stream[-1][:, -1:])  # all positions would double the memory of the logits
    return recorder.finish(out, last)


class _Recorder:
    """Owns the hooks of one forward pass and what they write."""

    def __init__(
        self,
        parts: Anatomy,
        ids: Tensor,
        points: tuple[str, ...],
        keep: Literal["all", "summary"] | Sequence[tuple[int, int]],
        summarise: Summarise,
    ):
        unknown = set(points) - set(POINTS)
        if unknown:
            raise ModelError(f"There is no point {sorted(unknown)[0]!r} in a block; there are {', '.join(POINTS)}.")
        self.parts, self.ids, self.points, self.summarise = parts, ids, points, summarise
        self.keeps_all = keep == "all"
        self.chosen = set() if isinstance(keep, str) else set(keep)
        stored = [delta for delta in DELTAS if delta in points]
        if "post_attn" in points and "delta_attn" not in points:
            stored.append("post_attn")
        self.stored = stored
        self.stream = torch.empty(0)
        self.kept: dict[str, Tensor] = {}
        self.attention: list[Tensor] = []
        self.heads: dict[tuple[int, int], Tensor] = {}
        self.summaries: list[Mapping[str, Tensor]] = []
        self.added: dict[str, Tensor] = {}  # of the layer that runs now
        self.left = torch.empty(0)  # the output of the block before
        self.fired = 0
        self.errors: dict[str, list[Tensor]] = {"rows": [], "future": [], "branches": []}
        self.weights_dtype = torch.float32

    def attach(self, hooks: ExitStack) -> None:
        for layer, block in enumerate(self.parts.blocks):
            for handle in self._hooks(layer, block):
                hooks.callback(handle.remove)

    def _hooks(self, layer: int, block: Block) -> Iterator[Any]:
        def weights(module: nn.Module, args: Any, output: Any) -> None:
            self._see_weights(layer, output if isinstance(output, Tensor) else output[1])

        def attention_added(module: nn.Module, args: Any, output: Any) -> None:
            self._see_added("delta_attn", output)

        def feed_forward_added(module: nn.Module, args: Any, output: Any) -> None:
            self._see_added("delta_ffn", output)

        def block_done(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entered = args[0] if args else kwargs["hidden_states"]
            self._see_block(layer, entered, output if isinstance(output, Tensor) else output[0])

        yield block.weights.register_forward_hook(weights)
        yield block.attention_adds.register_forward_hook(attention_added)
        yield block.feed_forward_adds.register_forward_hook(feed_forward_added)
        yield block.module.register_forward_hook(block_done, with_kwargs=True)

    def _see_weights(self, layer: int, weights: Tensor | None) -> None:
        if weights is None:
            raise ModelError(
                f"Layer {layer} gave no attention weights: its attention runs in a fused kernel that never stores them."
            )
        self.weights_dtype = weights.dtype
        self.errors["rows"].append(checks.row_error(weights))
        self.errors["future"].append(checks.future_weight(weights))
        if self.keeps_all:
            self.attention.append(weights)
            return
        self.summaries.append(self.summarise(weights, self.ids, self.parts.blocks[layer].window))
        for chosen_layer, head in self.chosen:
            if chosen_layer == layer:
                self.heads[layer, head] = weights[:, head].clone()  # a view would keep the whole layer

    def _see_added(self, name: str, output: Any) -> None:
        self.fired += 1
        self.added[name] = output if isinstance(output, Tensor) else output[0]

    def _see_block(self, layer: int, entered: Tensor, left: Tensor) -> None:
        self.fired += 1
        if layer == 0:
            n_layers = self.parts.n_layers
            self.stream = entered.new_empty(n_layers + 1, *entered.shape)
            self.kept = {name: entered.new_empty(n_layers, *entered.shape) for name in self.stored}
            self.stream[0] = entered
        elif entered is not self.left and not torch.equal(entered, self.stream[layer]):
            raise ModelError(
                f"{type(self.parts.model).__name__} changes the stream between layers {layer - 1} and {layer}, which "
                "no family that the lab knows does: its inside cannot be shown."
            )
        delta_attn, delta_ffn = self.added.pop("delta_attn"), self.added.pop("delta_ffn")
        delta_attn, delta_ffn = delta_attn.view_as(entered), delta_ffn.view_as(entered)
        self.stream[layer + 1] = self.left = left
        self.errors["branches"].append(checks.branches_error(entered, delta_attn, delta_ffn, left))
        for name, value in {"delta_attn": delta_attn, "delta_ffn": delta_ffn}.items():
            if name in self.kept:
                self.kept[name][layer] = value
        if "post_attn" in self.kept:
            torch.add(entered, delta_attn, out=self.kept["post_attn"][layer])

    def finish(self, logits: Tensor, last: Tensor) -> Capture:
        names = self.summaries[0] if self.summaries else ()
        return Capture(
            ids=self.ids,
            logits=logits,
            attention=self.attention,
            heads=self.heads,
            summary={name: torch.stack([figures[name] for figures in self.summaries]) for name in names},
            residual=Residual(self.stream, self.kept, self.points),
            check=Checks(self._checks(logits, last)),
            family=self.parts.family,
            virtual=frozenset({"post_attn"}) if self.parts.parallel else frozenset(),
            windows=tuple(self.parts.windows),
        )

    def _checks(self, logits: Tensor, last: Tensor) -> Iterator[Check]:
        worst = {name: float(torch.stack(errors).float().max()) for name, errors in self.errors.items()}
        stream, expected = self.stream.dtype, 3 * self.parts.n_layers
        yield Check(
            "rows sum to 1",
            worst["rows"],
            checks.rows_threshold(self.weights_dtype, self.ids.shape[-1]),
            "what was taken for attention weights is not a distribution over the keys",
        )
        yield Check("nothing from the future", worst["future"], 0.0, "a query puts weight on a later key")
        yield Check(
            "pre + Δattn + Δffn = post",
            worst["branches"],
            checks.branches_threshold(stream),
            "the two branches do not add up to what the block did",
        )
        yield Check(
            "each hook fired once a layer", abs(self.fired - expected), 0, f"{self.fired} instead of {expected} times"
        )
        yield Check(
            "last lens row = logits",
            checks.lens_error(last, logits[:, -1:]),
            checks.lens_threshold(logits.dtype, self.parts.d_model),
            "reading the last point of the stream does not give the model's own prediction",
        )


def predicted_bytes(
    parts: Anatomy,
    batch: int,
    positions: int,
    *,
    points: Sequence[str] = POINTS,
    keep: Literal["all", "summary"] | Sequence[tuple[int, int]] = "all",
    logits: Literal["all", "last"] = "all",
) -> int:
    """Memory that a capture will hold, in bytes, by arithmetic, before any of it is made."""
    number = parts.dtype.itemsize
    one_point = batch * positions * parts.d_model * number
    tensors = len(set(points) & set(DELTAS)) + ("post_attn" in points and "delta_attn" not in points)
    residual = (parts.n_layers + 1 + tensors * parts.n_layers) * one_point
    one_head = batch * positions * positions * number
    if keep == "all":
        attention = parts.n_layers * parts.n_heads * one_head
    else:
        attention = 0 if isinstance(keep, str) else len(set(keep)) * one_head
    output = batch * (positions if logits == "all" else 1) * parts.vocab_size * number
    return residual + attention + output + batch * positions * 8  # the ids


def _check_ids(parts: Anatomy, ids: Tensor) -> None:
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ModelError("There is no token to read: type at least one character.")
    if ids.shape[1] > parts.context_length:
        raise ModelError(
            f"The text has {ids.shape[1]:,} tokens, but this model reads at most {parts.context_length:,}: shorten it."
        )
    if int(ids.max()) >= parts.vocab_size or int(ids.min()) < 0:
        raise ModelError(
            f"Token id {int(ids.max())} is outside this model's vocabulary of {parts.vocab_size:,}: use its tokenizer."
        )


def _figures(weights: Tensor, ids: Tensor, window: int | None) -> Mapping[str, Tensor]:
    stats = head_stats([weights], ids, windows=[window])
    return {name: values[0] for name, values in stats.items()}
