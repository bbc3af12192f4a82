"""The checks that a model passes when it is opened, before anything of it is shown."""

import torch
from torch import Tensor

from lab.analysis.capture import THREE_POINTS, capture
from lab.analysis.checks import Check, Checks
from lab.analysis.interventions import switched_off
from lab.errors import ModelError
from lab.models.families import Anatomy

PROBE_TOKENS = 16


def check_model(parts: Anatomy, ids: Tensor | None = None) -> Checks:
    """Capture a short text, check it, and see whether the hooks hold on to what the model really uses.

    A capture could be consistent and still show a copy that the model does not read. So what the hooks hold on to is
    changed as well: with all heads of a layer switched off the prediction must change.

    Args:
        ids: int64 [1, pos]; some tokens spread over the vocabulary when left out.

    Raises:
        ModelError: the family is unknown, or the blocks are not those of a plain residual stream.
    """
    if ids is None:
        ids = torch.linspace(0, parts.vocab_size - 1, min(PROBE_TOKENS, parts.context_length)).long()[None]
    ids = ids.to(parts.device)
    found = capture(parts, ids, points=THREE_POINTS, logits="last")
    return Checks([*found.check, _heads_matter(parts, ids, found.logits)])


def require_sound(parts: Anatomy, checks: Checks) -> None:
    """Refuse a model whose blocks do more than add two branches.

    Raises:
        ModelError: with what does not hold.
    """
    if not checks.ok:
        raise ModelError(
            f"{type(parts.model).__name__} looks like {parts.family}, but does not work like it: "
            f"{'; '.join(f'{check}, {check.meaning}' for check in checks.failed)}. It can write text, but its inside "
            "cannot be shown."
        )


@torch.no_grad()
def _heads_matter(parts: Anatomy, ids: Tensor, logits: Tensor) -> Check:
    layers = sorted({0, parts.n_layers // 2, parts.n_layers - 1})
    without_effect = 0
    with parts.showing_weights():
        for layer in layers:
            with switched_off(parts, [(layer, head) for head in range(parts.n_heads)]):
                without_effect += torch.equal(parts(ids, last_only=True), logits)
    return Check(
        "switching attention off changes the logits", without_effect, 0, f"it did not in {without_effect} of the layers"
    )
