"""Linear probes: can a property of the text be read off the stream, layer by layer, with a straight cut?

A probe is a linear classifier trained on activations, the model frozen (Alain & Bengio 2017, "Understanding
intermediate layers using linear classifier probes"). Its accuracy alone says little, so it comes with what it has to
beat:

- **majority**: always saying the most frequent class;
- **shuffled labels**: the same probe on labels in random order, which must end near chance, or the test leaks;
- **control task** (Hewitt & Liang 2019, "Designing and Interpreting Probes with Control Tasks"): every token gets a
  random class once and for all. A probe can only memorise that. *Selectivity* = accuracy − control accuracy;
- **baselines** that the caller computes: the embedding alone, and the same model before training.

Nothing is drawn from torch's default generator, and the fits start from zero: the same data give the same figures.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.errors import DataError

Kind = Literal["logistic", "ridge"]

DECODABLE_IS_NOT_USED = (
    "Decodable does not mean used: a probe shows that a layer holds the information, not that the model does anything "
    "with it. Patching or switching heads off shows that."
)

_Z = 1.959964  # 95 % of a normal distribution lie within this many standard deviations
_RESAMPLES = 1_000
_FEWEST_KINDS = 10
"""Of tokens, for a control task: where all examples are the same full stop, giving it a random class is no task."""


@dataclass(frozen=True)
class Accuracy:
    """The share of held-out examples that a probe got right, with a 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Held-out examples."""


@dataclass(frozen=True)
class ProbeReport:
    """What can be read off each row of the stream, and what that has to be compared with."""

    rows: list[Accuracy]
    """One for each row of the features: row 0 is the embedding when they come from `lens_rows`."""
    shuffled: list[Accuracy]
    control: list[Accuracy]
    """Empty when no tokens were given, or fewer than 10 kinds of them."""
    baselines: dict[str, list[Accuracy]]
    """name -> one for each row, or a single one."""
    majority: float
    """Share of the most frequent class among the held-out examples."""
    n_train: int
    n_classes: int

    @property
    def selectivity(self) -> list[float]:
        """For each row accuracy − control accuracy: what is read off, not memorised."""
        return [real.value - control.value for real, control in zip(self.rows, self.control, strict=False)]


def probe_rows(
    features: Tensor,
    labels: Tensor,
    *,
    tokens: Tensor | None = None,
    groups: Tensor | None = None,
    baselines: Mapping[str, Tensor] | None = None,
    kind: Kind = "logistic",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeReport:
    """Train and judge a probe on every row of the stream, with all controls.

    Args:
        features: [row, n, d_model], activations of n examples.
        labels: int64 [n], classes from 0.
        tokens: int64 [n], the token at each example; asks for the control task, where there are 10 kinds at least.
        groups: int64 [n], what must not be on both sides of the split: positions of one text share their context, and
            one word in many sentences is memorised, not understood.
        baselines: name -> [n, d] or [row, n, d] features of the same examples.
        kind: "logistic" regression, or "ridge", a least-squares fit that is many times faster and a little weaker.
        seed: of split, shuffling and control labels.
        progress: told (rows done, rows).

    Raises:
        DataError: fewer than 20 examples, a single class, or a class that is all on one side of the split.
    """
    labels = labels.cpu()
    train, test = split_examples(labels, groups, seed=seed)
    generator = _generator(seed, "labels")
    n_classes = int(labels.max()) + 1
    targets = {"real": labels, "shuffled": labels[torch.from_numpy(generator.permutation(len(labels)))]}
    if tokens is not None and len(tokens.unique()) >= _FEWEST_KINDS:
        targets["control"] = control_labels(tokens.cpu(), labels, generator)

    def judged(x: Tensor, names: Sequence[str]) -> list[Accuracy]:
        """x: [n, d]."""
        x = x.float().cpu()
        fitted = _fit(x[train], [targets[name][train] for name in names], n_classes, kind)
        return [
            _accuracy(fitted[i](x[test]) == targets[name][test], test, groups, seed) for i, name in enumerate(names)
        ]

    columns = []
    for row, x in enumerate(features):
        columns.append(judged(x, list(targets)))
        if progress is not None:
            progress(row + 1, len(features))
    by_name = dict(zip(targets, map(list, zip(*columns, strict=True)), strict=True))
    others = {
        name: [judged(x, ["real"])[0] for x in (values if values.dim() == 3 else values[None])]
        for name, values in (baselines or {}).items()
    }
    majority = torch.bincount(labels[test]).max().item() / len(test)
    control = by_name.get("control", [])
    return ProbeReport(by_name["real"], by_name["shuffled"], control, others, majority, len(train), n_classes)


def control_labels(tokens: Tensor, labels: Tensor, generator: np.random.Generator) -> Tensor:
    """A random class for each *kind* of token, drawn as often as the real classes occur: int64 [n]."""
    kinds, which = tokens.unique(return_inverse=True)
    drawn = generator.integers(0, len(labels), size=len(kinds))  # drawing an example draws its class by frequency
    return labels[torch.from_numpy(drawn)][which]


def split_examples(
    labels: Tensor, groups: Tensor | None = None, *, test_share: float = 0.3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Indices for training and for judging, int64 each; all examples of a group on the same side.

    Raises:
        DataError: fewer than 20 examples, a single class, or a class that is all on one side.
    """
    n = len(labels)
    if n < 20:
        raise DataError(f"A probe needs at least 20 examples, and there are {n}: take more or longer texts.")
    if len(labels.unique()) < 2:
        raise DataError("All examples have the same label, so there is nothing to tell apart: choose another property.")
    group = np.arange(n) if groups is None else np.unique(groups.cpu().numpy(), return_inverse=True)[1]
    order = _generator(seed, "split").permutation(int(group.max()) + 1)
    sizes = np.bincount(group)[order]
    n_test = 1 + int(np.searchsorted(np.cumsum(sizes), test_share * n))  # whole groups until the share is reached
    in_test = np.isin(group, order[:n_test])
    train, test = torch.from_numpy(np.flatnonzero(~in_test)), torch.from_numpy(np.flatnonzero(in_test))
    missing = set(labels.tolist()) - set(labels[train].tolist())
    if len(test) == 0 or missing:
        raise DataError(
            f"Class {min(missing) if missing else 0} has examples in too few texts to be both learned and judged: take "
            "more texts, or join rare classes."
        )
    return train, test


# -- the fit ---------------------------------------------------------------------------------------------


def _fit(x: Tensor, targets: Sequence[Tensor], n_classes: int, kind: Kind) -> list[Callable[[Tensor], Tensor]]:
    """One classifier for each list of labels: [n, d], int64 [n] each -> functions [m, d] -> int64 [m].

    Features are scaled to mean 0 and deviation 1, by the training examples: one penalty then suits all dimensions.
    """
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0)

    def scaled(values: Tensor) -> Tensor:
        values = (values - mean) / scale
        return torch.cat([values, torch.ones(len(values), 1)], dim=1)  # the last weight is the bias

    def classifier(weights: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda values: (scaled(values) @ weights).argmax(1)

    fit = _ridge if kind == "ridge" else _logistic
    return [classifier(weights) for weights in fit(scaled(x), targets, n_classes)]


def _ridge(x: Tensor, targets: Sequence[Tensor], n_classes: int) -> list[Tensor]:
    """Least squares on one-hot labels with a penalty of 1 % of n: one factorisation serves all label sets."""
    x = x.double()
    gram = x.T @ x + 0.01 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    factor = torch.linalg.cholesky(gram)
    one_hot = [torch.nn.functional.one_hot(labels, n_classes).to(x) for labels in targets]
    return [torch.cholesky_solve(x.T @ wanted, factor).float() for wanted in one_hot]


def _logistic(x: Tensor, targets: Sequence[Tensor], n_classes: int) -> list[Tensor]:
    """Multinomial logistic regression with a penalty of 0.005 · Σ weight², by L-BFGS from zero."""
    found = []
    for labels in targets:
        weights = torch.zeros(x.shape[1], n_classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

        def loss(weights: Tensor = weights, labels: Tensor = labels) -> Tensor:
            return torch.nn.functional.cross_entropy(x @ weights, labels) + 0.005 * weights[:-1].square().sum()

        def closure(optimizer: torch.optim.Optimizer = optimizer, loss: Callable[[], Tensor] = loss) -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(closure)
        found.append(weights.detach())
    return found


# -- the interval ----------------------------------------------------------------------------------------


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share: `right` of `n` (Wilson 1927).

    Unlike share ± 2 deviations it stays within 0 and 1, and has a width also at 0 and at 100 %.
    """
    share = right / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(right: NDArray[np.bool_], groups: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the share of `right`, with whole groups drawn anew (Efron & Tibshirani 1993).

    Positions of one text are right or wrong together: as independent examples they would promise more than they hold.
    """
    which = np.unique(groups, return_inverse=True)[1]
    hits = np.bincount(which, weights=right)
    sizes = np.bincount(which)
    drawn = _generator(seed, "bootstrap").integers(0, len(sizes), size=(_RESAMPLES, len(sizes)))
    shares = hits[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)


def _accuracy(right: Tensor, test: Tensor, groups: Tensor | None, seed: int) -> Accuracy:
    """With groups the wider of both intervals: few groups all right would leave the bootstrap without any width."""
    n = len(right)
    low, high = wilson_interval(int(right.sum()), n)
    if groups is not None:
        other = bootstrap_interval(right.numpy(), groups.cpu()[test].numpy(), seed)
        low, high = min(low, other[0]), max(high, other[1])
    return Accuracy(right.float().mean().item(), low, high, n)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """One stream of random numbers for each purpose, so that asking for a control does not change the split."""
    return np.random.Generator(np.random.PCG64([seed, *purpose.encode()]))
