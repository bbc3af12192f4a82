"""From the stream to the logits: the final norm and the output layer, as one thing that can be asked about any vector.

The final norm divides by the vector's own size, so the logits are no sum over what the layers wrote. But for one given
vector its divisor is a number: *frozen* at that number the norm is a linear map, and the logit is exactly the sum of
what each part contributes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lab.errors import ModelError
from lab.models.families import Anatomy


def read_out(parts: Anatomy, stream: Tensor) -> Tensor:
    """The model's own final norm and output layer on any stream: [..., d_model] -> float32 logits [..., vocab]."""
    logits = parts.logits_of(stream.to(parts.dtype))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def output_rows(parts: Anatomy, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the normed stream is compared with for each token, and the token's bias: float64 [..., d_model] and [...].

    Args:
        ids: int64 [...].

    Raises:
        ModelError: the output layer is no plain matrix (quantised, or with an adapter of its own).
    """
    layer = parts.output
    if type(layer) is not nn.Linear:
        raise ModelError(
            f"The output layer of this model is a {type(layer).__name__}, not a plain matrix, so a logit cannot be "
            "split into contributions; merge the adapter, or open the model in fp32 or bf16."
        )
    rows = layer.weight.detach()[ids.to(layer.weight.device)].double()
    if layer.bias is None:
        return rows, rows.new_zeros(ids.shape)
    return rows, layer.bias.detach()[ids.to(layer.bias.device)].double()


@dataclass(frozen=True)
class FrozenNorm:
    """A norm at one given stream, as the linear map that it is there: norm(x) = linear(x) + bias."""

    centred: bool
    """LayerNorm subtracts the mean over d_model first (a linear map too); RMSNorm does not."""
    divisor: Tensor
    """float64 [..., 1]: the size that the given stream was divided by."""
    weight: Tensor
    """float64 [d_model]."""
    bias: Tensor
    """float64 [d_model]."""

    def linear(self, part: Tensor) -> Tensor:
        """What the map makes of a part of the stream: [..., d_model] -> [..., d_model], in float64."""
        part = part.double()
        if self.centred:
            part = part - part.mean(-1, keepdim=True)
        return part / self.divisor * self.weight


def freeze_norm(norm: nn.Module, stream: Tensor) -> FrozenNorm:
    """The norm at `stream` [..., d_model] as a linear map, in float64.

    The kind is found by trying: LayerNorm, RMSNorm, and Gemma's RMSNorm, whose stored weight is what is *added* to 1.
    What does not reproduce the module's own output on this very stream is refused.

    Raises:
        ModelError: none of the known kinds gives this norm's output.
    """
    if isinstance(norm, nn.Identity):
        d_model = stream.shape[-1]
        one = torch.ones(d_model, dtype=torch.float64, device=stream.device)
        return FrozenNorm(False, torch.ones_like(stream[..., :1], dtype=torch.float64), one, torch.zeros_like(one))
    given = getattr(norm, "weight", None)
    like = stream if given is None else stream.to(given)
    with torch.no_grad():
        wanted = norm(like).double()
    x = like.double()
    eps = float(getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None) or 0.0)
    ones = torch.ones(x.shape[-1], dtype=torch.float64, device=x.device)
    weight = ones if given is None else given.detach().double()
    bias = getattr(norm, "bias", None)
    shift = torch.zeros_like(ones) if bias is None else bias.detach().double()
    variance = x.var(-1, correction=0, keepdim=True)
    mean_square = x.square().mean(-1, keepdim=True)
    candidates = [
        FrozenNorm(True, (variance + eps).sqrt(), weight, shift),
        FrozenNorm(False, (mean_square + eps).sqrt(), weight, shift),
        FrozenNorm(False, (mean_square + eps).sqrt(), 1 + weight, shift),
    ]
    errors = [(c.linear(x) + c.bias - wanted).abs().max().item() for c in candidates]
    best = min(range(len(candidates)), key=errors.__getitem__)
    steps = 16 if like.dtype in (torch.float32, torch.float64) else 4  # of rounding
    allowed = steps * torch.finfo(like.dtype).eps * wanted.abs().max().item()
    if not errors[best] <= allowed:
        raise ModelError(
            f"The norm {type(norm).__name__} is neither LayerNorm nor RMSNorm (off by {errors[best]:.2g}, allowed "
            f"{allowed:.2g}), so logits cannot be split into contributions for this model."
        )
    return candidates[best]
