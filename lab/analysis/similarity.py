"""Clouds of activations: how many directions they use, the largest of them, and how alike two clouds are.

Every function takes a cloud [n, d]: n vectors (positions of texts), d numbers each. Sums are done in float64, because
all of this subtracts nearly equal numbers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.errors import DataError


def cloud(stream: Tensor) -> Tensor:
    """Every position a row: [batch, pos, d_model] -> [batch · pos, d_model]."""
    return stream.flatten(0, -2)


def effective_rank(x: Tensor) -> float:
    """How many directions a cloud really uses, 1 to min(n, d).

    exp of the entropy of the normalised singular values of the centred cloud (Roy & Vetterli 2007, "The Effective
    Rank"): k equally strong directions give exactly k, one dominating direction gives nearly 1.

    Raises:
        DataError: all vectors are the same, or there is only one.
    """
    strengths = torch.linalg.svdvals(_centred(x))
    p = strengths / strengths.sum()
    return math.exp(torch.special.entr(p).sum().item())


@dataclass(frozen=True)
class PCA:
    """The directions in which a cloud spreads most."""

    coordinates: Tensor
    """[n, component]: where each vector lies along each direction."""
    directions: Tensor
    """[component, d], each of length 1, orthogonal."""
    explained: Tensor
    """[component], share of the cloud's whole variance."""
    mean: Tensor
    """[d], the cloud's middle."""


def pca(x: Tensor, n_components: int = 2) -> PCA:
    """Principal components of a cloud [n, d], strongest first; at most min(n, d) of them.

    A direction and its opposite are equally right: the sign is chosen so that the entry of largest size is positive,
    and the same data give the same picture on every machine.

    Raises:
        DataError: all vectors are the same, or there is only one.
    """
    centred = _centred(x)
    _, strengths, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:n_components]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    variance = strengths.square()
    return PCA(centred @ directions.T, directions, (variance / variance.sum())[:n_components], x.double().mean(0))


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """How alike two clouds of the same n inputs are, whatever the axes: [n, d1] and [n, d2] -> 0 to 1.

    Centred kernel alignment with a linear kernel (Kornblith et al. 2019, "Similarity of Neural Network Representations
    Revisited"): ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of the centred clouds. 1 for the same cloud, also when rotated, mirrored or
    scaled as a whole; unlike a cosine it needs no common axes, so it compares layers and even models.

    With fewer inputs than dimensions two unrelated clouds come out alike. `debiased` uses the unbiased estimate of each
    of the three terms (Song et al. 2012; Nguyen et al. 2021), which is 0 on average for unrelated clouds and may be
    slightly negative.

    Raises:
        DataError: different numbers of inputs, or too few, or a cloud without spread.
    """
    if len(x) != len(y):
        raise DataError(f"CKA compares two clouds of the same inputs; these have {len(x)} and {len(y)} vectors.")
    if debiased and len(x) < 4:
        raise DataError(f"Debiased CKA needs at least 4 positions, and there are {len(x)}: take a longer text.")
    a, b = _centred(x), _centred(y)
    together = _unbiased_hsic if debiased else _hsic
    size = together(a, a) * together(b, b)
    if size <= 0:
        raise DataError("Too few positions for debiased CKA of clouds with so little spread: take a longer text.")
    return together(a, b) / math.sqrt(size)


def cka_of_layers(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    """Linear CKA of every layer with every layer: [layer, n, d1] and [layer, n, d2] -> [layer of x, layer of y].

    Raises:
        DataError: as `linear_cka`.
    """
    x_turned, y_turned = [_turned(a) for a in x], [_turned(b) for b in y]
    return torch.tensor(
        [[linear_cka(a, b, debiased=debiased) for b in y_turned] for a in x_turned], dtype=torch.float64
    )


def _turned(x: Tensor) -> Tensor:
    """The same cloud [n, d] in axes of its own span, [n, min(n, d)]: CKA does not see the rotation, and takes
    (d / n)² of the time where there are fewer inputs than dimensions."""
    n, d = x.shape
    return x.double() if n >= d else torch.linalg.qr(x.double().T, mode="r").R.T


def _hsic(a: Tensor, b: Tensor) -> float:
    """⟨AAᵀ, BBᵀ⟩ = ‖BᵀA‖², computed without an n × n matrix."""
    return (b.T @ a).square().sum().item()


def _unbiased_hsic(a: Tensor, b: Tensor) -> float:
    """The unbiased estimate of Song et al. (2012) up to its factor 1/(n(n−3)), which cancels in CKA.

    With K = AAᵀ and L = BBᵀ and their diagonals set to 0:
    tr(KL) + 1ᵀK1 · 1ᵀL1 / ((n−1)(n−2)) − 2/(n−2) · 1ᵀKL1. Each term is had from A and B without forming K.
    """
    n = len(a)
    diagonal_a, diagonal_b = a.square().sum(1), b.square().sum(1)  # [n]
    trace = (b.T @ a).square().sum() - (diagonal_a * diagonal_b).sum()
    rows_a = a @ a.sum(0) - diagonal_a  # K1: [n]
    rows_b = b @ b.sum(0) - diagonal_b
    product = rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * (rows_a * rows_b).sum()).item()


def _centred(x: Tensor) -> Tensor:
    if x.dim() != 2:
        raise ValueError(f"a cloud is [n, d], got {tuple(x.shape)}")
    centred = x.double() - x.double().mean(0)
    if len(x) < 2 or not centred.abs().max() > 0:
        raise DataError(f"A cloud of {len(x)} equal vectors has no directions: take a text with more positions.")
    return centred
