"""TRL's SFTTrainer as a yardstick on a machine without a GPU.

TRL 1.15 computes the output layer with a Triton kernel, and Triton needs a GPU: on a CPU `SFTTrainer` cannot take a
step. `PlainLogProbs` is that one function (`trl.kernels.ChunkedLogProbFunction`) written in torch: the same tiles, the
same recomputation in the backward pass. All else, data, masks, forward pass, normalisation and optimizer, is TRL's.
`TRITON_INTERPRET=1 python -m benchmarks.trl_reference`, where Triton is installed, lays the two beside each other: the
log-probabilities differed by 0, the gradients by at most 5e-7.
"""

from typing import Any

import torch
from torch import Tensor

TOKENS_AT_ONCE = 4_096


class PlainLogProbs(torch.autograd.Function):
    """Log-probability of each target, without all logits at once; entropy and whether the target is the likeliest."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float,
        chunk_size: int, softcap: float | None = None, logit_scale: float = 1.0, outputs: tuple[str, ...] = (),
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """hidden [N, C], weight [V, C], targets [N] -> log-probabilities [N] and what TRL reports beside them."""
        assert (bias, softcap, temperature, logit_scale) == (None, None, 1.0, 1.0), "a plain output layer"
        ctx.set_materialize_grads(False)
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        n = hidden.shape[0]
        top = torch.full((n,), -torch.inf)
        total, weighted, target = torch.zeros(n), torch.zeros(n), torch.zeros(n)
        for rows in _pieces(n, TOKENS_AT_ONCE):
            for words in _pieces(weight.shape[0], chunk_size):
                tile = (hidden[rows].to(dtype) @ weight[words].to(dtype).T).float()
                higher = torch.maximum(top[rows], tile.amax(1))
                shrink = (top[rows] - higher).exp()
                powers = (tile - higher[:, None]).exp()
                total[rows] = total[rows] * shrink + powers.sum(1)
                weighted[rows] = weighted[rows] * shrink + (powers * tile).sum(1)
                top[rows] = higher
                place = targets[rows] - words.start
                inside = (place >= 0) & (place < tile.shape[1])
                found = tile.gather(1, place.clamp(0, tile.shape[1] - 1)[:, None])[:, 0]
                target[rows] = torch.where(inside, found, target[rows])
        log_total = top + total.log()
        entropy, is_top = log_total - weighted / total, target >= top
        ctx.save_for_backward(hidden, weight, targets, log_total)
        ctx.dtype, ctx.chunk_size = dtype, chunk_size
        ctx.mark_non_differentiable(entropy, is_top)
        return target - log_total, entropy, None, None, is_top

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_total = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros(hidden.shape) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape) if wants_weight else None
        for rows in _pieces(hidden.shape[0], TOKENS_AT_ONCE):
            part = hidden[rows].to(ctx.dtype)
            for words in _pieces(weight.shape[0], ctx.chunk_size):
                matrix = weight[words].to(ctx.dtype)
                tile = part @ matrix.T
                chance = (tile.float() - log_total[rows, None]).exp_()
                place = targets[rows] - words.start
                inside = (place >= 0) & (place < chance.shape[1])
                chance[inside, place[inside]] -= 1
                tile.copy_(chance.mul_(-grads[0][rows, None]))
                if grad_hidden is not None:
                    grad_hidden[rows].addmm_(tile.float(), matrix.float())
                if grad_weight is not None:
                    grad_weight[words].addmm_(tile.T.float(), part.float())
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            *[None] * 7,
        )


def _pieces(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def let_trl_run_here() -> None:
    """Put `PlainLogProbs` where TRL found no Triton."""
    from trl.trainer import utils

    if utils._ChunkedLogProbFunction is None:
        utils._ChunkedLogProbFunction = PlainLogProbs


def main() -> None:
    """Lay TRL's own kernel, in Triton's interpreter, beside the plain one."""
    from trl.kernels import ChunkedLogProbFunction

    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=draw) for shape in ((37, 32), (261, 32)))
    targets = torch.randint(0, 261, (37,), generator=draw)
    upstream = torch.randn(37, generator=draw)
    found = []
    for function in (ChunkedLogProbFunction, PlainLogProbs):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        out = function.apply(h, w, None, targets, 1.0, 100, None, 1.0, ("log_probs", "entropy", "is_top1"))
        (out[0] * upstream).sum().backward()
        found.append((out[0].detach(), out[1].detach(), h.grad, w.grad))
    for name, theirs, ours in zip(("log-probabilities", "entropy", "d hidden", "d weight"), *found, strict=True):
        print(f"{name}: largest difference {(theirs - ours).abs().max():.2g}")


if __name__ == "__main__":
    main()
