"""Changing what happens inside a model while it reads, to see what depends on it. Afterwards it is as before.

with switched_off(parts, [(3, 0), (3, 5)]):      # two heads of layer 3 hand over nothing
    logits = parts(ids)
with edited(parts, {("post_ffn", 4): lambda stream: other}):
    logits = parts(ids)

Knocking a part out shows that the rest relied on it; it does not show that the part alone suffices.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from lab.errors import ModelError
from lab.models.families import Anatomy

Edit = Callable[[Tensor], Tensor]
"""[batch, pos, d_model] -> the same shape: what stands there instead."""


@contextmanager
def switched_off(parts: Anatomy, heads: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Let these heads, given as (layer, head), add nothing: what they hand to the mixing layer is 0.

    Raises:
        ModelError: there is no such head.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        _check_layer(parts, layer)
        if not 0 <= head < parts.n_heads:
            raise ModelError(f"There is no head {head}: each layer has {parts.n_heads}, counted from 0.")
        by_layer.setdefault(layer, []).append(head)
    with ExitStack() as hooks:
        for layer, chosen in by_layer.items():
            handle = parts.blocks[layer].heads_meet.register_forward_pre_hook(_silencing(chosen, parts.d_head))
            hooks.callback(handle.remove)
        yield


def _silencing(heads: list[int], d_head: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        side_by_side = args[0].clone()  # [batch, pos, head × d_head]
        for head in heads:
            side_by_side[..., head * d_head : (head + 1) * d_head] = 0
        return (side_by_side, *args[1:])

    return hook


@contextmanager
def edited(parts: Anatomy, edits: Mapping[tuple[str, int], Edit]) -> Iterator[None]:
    """Replace points of the stream, or what a branch adds to it.

    Args:
        edits: by (point, layer); point is pre_attn, post_attn, post_ffn, delta_attn or delta_ffn.

    Raises:
        ModelError: there is no such point or layer.
    """
    with ExitStack() as hooks:
        for (point, layer), edit in edits.items():
            _check_layer(parts, layer)
            for handle in _hooks_of(parts, point, layer, edit):
                hooks.callback(handle.remove)
        yield


def _hooks_of(parts: Anatomy, point: str, layer: int, edit: Edit) -> Iterator[Any]:
    block = parts.blocks[layer]
    if point == "pre_attn":
        yield block.module.register_forward_pre_hook(_on_input(edit), with_kwargs=True)
    elif point == "post_ffn":
        yield block.module.register_forward_hook(_on_output(edit))
    elif point == "delta_attn":
        yield block.attention_adds.register_forward_hook(_on_output(edit))
    elif point == "delta_ffn":
        yield block.feed_forward_adds.register_forward_hook(_on_output(edit))
    elif point == "post_attn" and not parts.parallel:
        # The point is a sum inside the block, where no hook reaches: attention is made to add what leads there.
        before: list[Tensor] = []

        def remember(stream: Tensor) -> Tensor:
            before[:] = [stream]
            return stream

        def lead_there(delta: Tensor) -> Tensor:
            return edit(before[0] + delta) - before[0]

        yield block.module.register_forward_pre_hook(_on_input(remember), with_kwargs=True)
        yield block.attention_adds.register_forward_hook(_on_output(lead_there))
    elif point == "post_attn":
        raise ModelError(
            f"In a {parts.family} block attention and feed-forward run side by side: there is no post_attn to change; "
            "change delta_attn or post_ffn."
        )
    else:
        raise ModelError(f"There is no point {point!r}: choose pre_attn, post_attn, post_ffn, delta_attn or delta_ffn.")


def _on_input(edit: Edit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return hook


def _on_output(edit: Edit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return edit(output)
        return (edit(output[0]), *output[1:])

    return hook


def _check_layer(parts: Anatomy, layer: int) -> None:
    if not 0 <= layer < parts.n_layers:
        raise ModelError(f"There is no layer {layer}: this model has {parts.n_layers}, counted from 0.")
