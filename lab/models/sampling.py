"""From logits to one token: temperature, top-k, top-p, and one random number.

A language model ends in one score per token of its vocabulary, the logits. Softmax makes probabilities of them, and
sampling draws one. The three knobs change the distribution before the draw, in this order:

    temperature   logits / temperature: below 1 the likely gets likelier, above 1 the odds even out, 0 takes the best
    top_k         only the k best tokens stay
    top_p         only the fewest best tokens that together hold the share p stay ("nucleus sampling")
"""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from lab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, and how many.

    Raises:
        ConfigError: with one sentence for each value that cannot work.
    """

    temperature: float = 0.8  # 0: always the most likely token (greedy)
    top_k: int | None = None  # None: all tokens
    top_p: float | None = None  # None: all tokens
    max_new_tokens: int = 200
    seed: int = 0  # same seed, same model, same prompt: same text
    stop_at_end: bool = True  # stop when the model writes its end-of-text token

    def __post_init__(self) -> None:
        mistakes = []
        if not (isfinite(self.temperature) and self.temperature >= 0):
            mistakes.append(f"temperature is {self.temperature}, but must be 0 or more.")
        if self.top_k is not None and self.top_k < 1:
            mistakes.append(f"top_k is {self.top_k}, but must be at least 1, or not set.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            mistakes.append(f"top_p is {self.top_p}, but must be more than 0 and at most 1, or not set.")
        if self.max_new_tokens < 1:
            mistakes.append(f"max_new_tokens is {self.max_new_tokens}, but must be at least 1.")
        if not 0 <= self.seed < 2**63:
            mistakes.append(f"seed is {self.seed}, but must be a whole number from 0 to 2^63 - 1.")
        if mistakes:
            raise ConfigError(mistakes)


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token.

    Args:
        logits: [vocab], on the CPU.
        generator: gives one number per draw, whatever the knobs say, so that a change of a knob does not shift the
            random numbers of the tokens that follow.
    """
    uniform = torch.rand((), dtype=torch.float64, generator=generator)
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Put the probabilities end to end on a line and see into whose stretch the random point falls. A token
    # without probability has a stretch without length, so "strictly right of the point" never finds it.
    line = distribution(logits, sampling).cumsum(0)  # [vocab]
    return int(torch.searchsorted(line, uniform * line[-1], right=True))


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities that are drawn from, after temperature, top-k and top-p.

    Args:
        logits: [vocab]; sampling.temperature is not 0.

    Returns:
        float64 [vocab], sum 1.
    """
    # float64: at a small temperature the quotients are huge, and a sum over 50,257 of them should still be exact
    logits = logits.double()
    scores = (logits - logits.max()) / sampling.temperature  # the largest is 0: exp can't overflow
    if sampling.top_k is not None and sampling.top_k < len(scores):
        kth_best = scores.topk(sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < kth_best, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        best_first, order = scores.softmax(0).sort(descending=True, stable=True)
        # A token stays while those before it have not reached the share yet; so the best one always stays.
        before = best_first.cumsum(0) - best_first
        scores = scores.index_fill(0, order[before >= sampling.top_p], float("-inf"))
    return scores.softmax(0)
