"""Cross-entropy without ever holding all the logits.

With GPT-2's vocabulary the logits of 4 × 256 positions are 206 MB in fp32, and the usual way keeps up to
three such tensors alive: they, not the model, decide how much memory a small model needs. Here the output
layer and the loss are done for a few hundred positions at a time, and the gradient of those positions is
taken at once, while their logits are still there. The same sums in the same precision.
"""

from typing import Any

import torch
from torch import Tensor

from lab.data.batches import IGNORE

_LOGITS_AT_ONCE = 1 << 24  # 64 MiB in fp32: large enough to use the hardware, small enough not to matter


def summed_cross_entropy(hidden: Tensor, output_weight: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of every label, in nats, summed.

    Args:
        hidden: [..., C], what the output layer reads.
        output_weight: [V, C].
        labels: int64 [...], the token that really came next, or IGNORE.

    Returns:
        A scalar. Divide by the number of labels *of the whole step*: the mean over micro-batches of unequal
        label counts would be another quantity.
    """
    return _ChunkedCrossEntropy.apply(hidden.flatten(0, -2), output_weight, labels.flatten())


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """hidden [N, C], weight [V, C], labels [N] -> scalar."""
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        exact = torch.promote_types(dtype, torch.float32)  # exponentials are summed in 32 bits at least
        matrix = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        total = torch.zeros((), dtype=exact, device=hidden.device)
        rows = max(1, _LOGITS_AT_ONCE // weight.shape[0])
        with torch.autocast(kind, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                part = hidden[start : start + rows].to(dtype)  # [n, C]
                target = labels[start : start + rows]  # [n]
                counted = (target != IGNORE)[:, None]  # [n, 1]
                target = target.clamp(min=0)[:, None]
                logits = (part @ matrix.T).to(exact)  # [n, V]
                log_total = logits.logsumexp(-1, keepdim=True)  # [n, 1]
                total += ((log_total - logits.gather(1, target)) * counted).sum()
                if grad_hidden is None and grad_weight is None:
                    continue
                # d loss / d logits = softmax − one-hot: what the model expects, less what came.
                error = logits.sub_(log_total).exp_()
                error.scatter_add_(1, target, torch.full_like(log_total, -1.0))
                error = (error * counted).to(dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + rows] = error @ matrix
                if grad_weight is not None:
                    if grad_weight.dtype == dtype:
                        grad_weight.addmm_(error.T, part)  # without a second matrix of V × C
                    else:
                        grad_weight += error.T @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0]  # 1 / labels of the step, times fp16's loss scale
        return (
            None if grad_hidden is None else grad_hidden * scale,
            None if grad_weight is None else grad_weight * scale,
            None,
        )
