"""Looking at the heads while they form: at each evaluation the model reads random tokens said twice.

What an induction head does is clearest there, since nothing but the repeat tells what comes next. The figures of every
head and every layer go into the record, so that the moment in which a head forms stands beside the loss curve.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lab.analysis.capture import Capture, capture
from lab.analysis.heads import as_rows, head_stats
from lab.analysis.residual import layer_rows
from lab.training.contracts import Row

TEXT = "random tokens said twice"
"""What `text` says in head_stats and layer_stats of a training."""

_LENGTH = 24  # of what is said twice: long enough for chance to be low (0.04), short enough to cost milliseconds
_SHORTEST = 4
_TEXTS = 4


class HeadWatch:
    """Two probes that share one pass: `heads` and `layers`, in this order.

    Args:
        ids: int64 [batch, pos], from `repeated_tokens`.
    """

    def __init__(self, ids: Tensor):
        self.ids = ids
        self._seen: Capture | None = None

    def heads(self, model: nn.Module, step: int) -> tuple[str, list[Row]]:
        self._seen = found = capture(model, self.ids, points=("pre_attn", "post_ffn", "delta_attn", "delta_ffn",
                                                              "post_attn"), logits="last")  # fmt: skip
        if not found.check.ok:  # rather nothing than a wrong number
            self._seen = None
            return "head_stats", []
        stats = head_stats(found.attention, found.ids, windows=found.windows)
        return "head_stats", [{**row, "step": step, "text": TEXT} for row in as_rows(stats)]

    def layers(self, model: nn.Module, step: int) -> tuple[str, list[Row]]:
        found, self._seen = self._seen, None
        if found is None:
            return "layer_stats", []
        return "layer_stats", [{**row, "step": step, "text": TEXT} for row in layer_rows(found.residual)]


def repeated_tokens(vocab_size: int, context_length: int, device: torch.device, *, seed: int = 0) -> Tensor | None:
    """Random tokens, each text said twice: int64 [batch, pos]; None where context or vocabulary is too small.

    Drawn by a generator of its own: a training's random numbers stay as they are.
    """
    length = min(_LENGTH, context_length // 2, vocab_size)
    if length < _SHORTEST:
        return None
    draw = np.random.Generator(np.random.PCG64(seed))
    once = np.stack([draw.choice(vocab_size, size=length, replace=False) for _ in range(_TEXTS)])
    return torch.from_numpy(np.concatenate([once, once], axis=1).astype(np.int64)).to(device)
