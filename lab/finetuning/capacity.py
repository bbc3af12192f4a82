"""Is there room in the adapter for what the data has to say? A rule of thumb, and what came of it.

A language model stores about 2 bits in a parameter (Allen-Zhu and Li 2024, "Physics of Language Models: Part 3.3,
Knowledge Capacity Scaling Laws"). What one pass over the data can teach is at most what the model did not know before:
the sum of its loss over all tokens that are learnt, commonly about 1 bit each. While the data stays below what the
adapter can hold, LoRA learns as well as full fine-tuning; beyond it, its curve falls behind (Schulman and Thinking
Machines Lab 2025, "LoRA Without Regret").
"""

import math
from dataclasses import dataclass

BITS_PER_PARAMETER = 2.0
USUAL_BITS_PER_TOKEN = 1.0
"""Until the loss has been measured."""
SOURCE = (
    "2 bits per parameter: Allen-Zhu and Li 2024, Knowledge Capacity Scaling Laws. The comparison: Schulman and "
    "Thinking Machines Lab 2025, LoRA Without Regret."
)


@dataclass(frozen=True)
class Capacity:
    """What can be held against what is there to learn."""

    trainable: int
    """Parameters that train."""
    label_tokens: int
    """Tokens that are learnt in one pass over the training rows."""
    bits_per_token: float
    measured: bool
    """Whether the bits per token are the model's own loss before training."""

    @property
    def holds_bits(self) -> float:
        return BITS_PER_PARAMETER * self.trainable

    @property
    def needs_bits(self) -> float:
        return self.bits_per_token * self.label_tokens

    @property
    def share(self) -> float:
        """How full the adapter would be; above 1 the data has more to say than it can hold."""
        return self.needs_bits / self.holds_bits

    @property
    def sentence(self) -> str:
        how = "by the model's own loss before training" if self.measured else "at the usual 1 bit per token"
        said = (
            f"{self.trainable:,} trainable parameters hold about {bits(self.holds_bits)}; {self.label_tokens:,} "
            f"completion tokens have at most {bits(self.needs_bits)} to say, {how}: "
        )
        if self.share > 1:
            return said + f"{self.share:.1f} times what fits. Take a larger rank, or more layers."
        if self.share > 0.3:
            return said + f"{self.share:.0%} of what fits. A larger rank may help."
        return said + f"{_percent(self.share)} of what fits. Rank is no limit here; a smaller one would do."


def capacity(trainable: int, label_tokens: int, first_loss: float | None = None) -> Capacity:
    """Args: first_loss: validation loss before the first step, in nats per token; None before it is known."""
    measured = first_loss is not None
    per_token = first_loss / math.log(2) if first_loss is not None else USUAL_BITS_PER_TOKEN
    return Capacity(trainable, label_tokens, per_token, measured)


def checked(before: Capacity, first_loss: float, last_loss: float) -> str:
    """After the run: what of it was learnt, and whether the rule was right.

    Args:
        first_loss, last_loss: validation loss before and after, in nats per token.
    """
    learnt = max(0.0, first_loss - last_loss) / math.log(2)
    said = f"It learnt {learnt:.2f} of {first_loss / math.log(2):.2f} bits per token on rows it never saw."
    if before.share > 1 and learnt < 0.15 * first_loss / math.log(2):
        return said + " The adapter was too small for the data by the rule, and little was learnt: try a larger rank."
    if before.share > 1:
        return said + " By the rule the adapter was too small for the data; compare with twice the rank."
    if learnt <= 0:
        return said + " Room was not what was missing: look at the learning rate, the number of epochs and the data."
    return said + " There was room in the adapter, as the rule said."


def bits(count: float) -> str:
    """A number of bits as a person says it."""
    for unit, size in (("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bit"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}" if share >= 0.001 else "less than 0.1 %"
