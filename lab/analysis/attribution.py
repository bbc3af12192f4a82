"""Direct logit attribution: how much each branch and each head wrote for, or against, a token.

The logit of a token is a dot product of the normed stream with the token's row of the output layer. The stream is a sum
of additions and the norm, frozen at this stream, is linear, so the logit is a sum too: one number for each addition
(Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; the frozen norm as in nostalgebraist's logit
lens and TransformerLens). *Direct* means: what a head wrote for later layers to read is counted where those write.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lab.analysis.readout import freeze_norm, output_rows
from lab.errors import ModelError
from lab.models.families import Anatomy, Block


@dataclass(frozen=True)
class Attribution:
    """One logit (or the difference of two) taken apart, at every position."""

    values: Tensor
    """float64 [part, batch, pos], in logits: what each part contributed."""
    constant: Tensor
    """float64 [batch, pos]: the biases of final norm and output layer, which no part wrote."""

    @property
    def total(self) -> Tensor:
        """[batch, pos]: the logit, before a softcap."""
        return self.values.sum(0) + self.constant


@torch.no_grad()
def attribute(
    parts: Anatomy, additions: Tensor, final: Tensor, token: Tensor | int, *, against: Tensor | int | None = None
) -> Attribution:
    """How much each addition to the stream adds to the logit of `token`.

    Args:
        additions: [part, batch, pos, d_model]. When they add up to `final`, values + constant add up to the logit;
            `lab.analysis.residual.stream_parts` gives such a list.
        final: [batch, pos, d_model], the stream after the last block, where the norm is frozen.
        token: one id, or int64 [batch, pos].
        against: attribute the *difference* to this token's logit instead. All logits can go up together without
            changing any probability; a difference shows what decided between two tokens.

    Raises:
        ModelError: the final norm or the output layer is of an unknown kind.
    """
    frozen = freeze_norm(parts.final_norm, final)
    direction, constant = _rows(parts, token, final)
    if against is not None:
        other, other_constant = _rows(parts, against, final)
        direction, constant = direction - other, constant - other_constant
    # One part at a time: all of a large model's in float64 at once would not fit.
    values = torch.stack([(frozen.linear(part.to(final.device)) * direction).sum(-1) for part in additions])
    return Attribution(values, constant + (frozen.bias * direction).sum(-1))


def _rows(parts: Anatomy, token: Tensor | int, final: Tensor) -> tuple[Tensor, Tensor]:
    ids = torch.as_tensor(token).expand(final.shape[:-1])
    rows, bias = output_rows(parts, ids)
    return rows.to(final.device), bias.to(final.device)


@torch.no_grad()
def head_writes(block: Block, fetched: Tensor, *, delta: Tensor) -> tuple[Tensor, Tensor]:
    """What each head alone wrote into the stream.

    The mixer (`out_proj`, `o_proj`, `c_proj`) is linear, so its output is the sum of what it makes of each head with
    all others set to 0, and its bias. Running the module itself serves quantised and adapted layers too. A norm behind
    the branch (Gemma 2/3, OLMo 2) is frozen at this text's values, like the final norm.

    Args:
        fetched: [batch, pos, head, d_head], from `lab.analysis.recording.record_heads`.
        delta: [batch, pos, d_model], Δattn as captured; the sum is checked against it.

    Returns:
        Heads [head, batch, pos, d_model] and the rest that no head wrote (biases) [batch, pos, d_model].

    Raises:
        ModelError: the sum is not `delta`: there is something between heads and stream that this does not know.
    """
    mixer = block.heads_meet
    together = mixer(fetched.flatten(-2))  # [batch, pos, d_model]
    rest = mixer(torch.zeros_like(fetched.flatten(-2)))
    alone = []
    for head in range(fetched.shape[2]):
        only = torch.zeros_like(fetched)
        only[:, :, head] = fetched[:, :, head]
        alone.append(mixer(only.flatten(-2)) - rest)
    heads = torch.stack(alone)
    if has_norm_behind(block):
        frozen = freeze_norm(block.attention_adds, together)
        heads = torch.stack([frozen.linear(head) for head in heads])
        rest = frozen.linear(rest) + frozen.bias
    _check_sum(heads, rest, delta)
    return heads, rest


def has_norm_behind(block: Block) -> bool:
    """Whether what attention adds is the output of a norm; an attention module or a dropout adds the sum as it is."""
    adds = block.attention_adds
    return adds is not block.attention and not isinstance(adds, nn.Dropout)


def _check_sum(heads: Tensor, rest: Tensor, delta: Tensor) -> None:
    error = (heads.double().sum(0) + rest.double() - delta.double()).abs().max().item()
    # Measured on tiny models of seven families: at most 2.3 steps of fp32 (sums in another order) and 0.9 of bf16 (one
    # rounding of each head). Wider layers sum more terms.
    steps = 64 if delta.dtype in (torch.float32, torch.float64) else 4
    allowed = steps * torch.finfo(delta.dtype).eps * max(heads.abs().max().item(), delta.abs().max().item())
    if not error <= allowed:
        raise ModelError(
            f"The heads' outputs do not add up to what attention wrote (off by {error:.2g}, allowed {allowed:.2g}), so "
            "no attribution per head is shown for this model."
        )
