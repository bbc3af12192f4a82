"""Windows of a text, shuffled, as whole optimizer steps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from lab.data.order import ShuffledOrder
from lab.data.text_data import TextData, prepare_text
from lab.data.windows import check_lengths, count_windows, split, validation_windows
from lab.errors import DataError

__all__ = [
    "IGNORE",
    "MicroBatch",
    "TextData",
    "ValidationWindows",
    "WindowBatches",
    "check_lengths",
    "count_windows",
    "prepare_text",
    "split",
    "validation_windows",
]

IGNORE = -100
"""A label that does not count: PyTorch's cross-entropy leaves it out."""


@dataclass(slots=True)
class MicroBatch:
    """One forward and backward pass."""

    inputs: torch.Tensor
    """Token ids, int64 [batch, pos]."""
    labels: torch.Tensor
    """The token that follows each input, int64 [batch, pos]; IGNORE where there is nothing to learn."""
    n_labels: int = field(init=False)
    """Labels that count. Known here, on the CPU, so that nobody waits for a GPU to count them."""

    n_tokens: int = field(init=False)
    """Tokens that are read, those too that nothing is learnt from; no padding."""

    def __post_init__(self) -> None:
        self.n_labels = int(np.count_nonzero(self.labels.numpy() != IGNORE))
        self.n_tokens = self.inputs.numel()


class WindowBatches:
    """Training windows without end, one optimizer step at a time.

    Each epoch is a new permutation of all windows. Where an epoch ends within a step, the next one fills it up, so
    every step is full and a step weighs as much as any other.
    """

    def __init__(
        self,
        tokens: NDArray[np.integer],
        *,
        context_length: int,
        stride: int,
        batch_size: int,
        grad_accum_steps: int = 1,
        seed: int,
    ):
        """
        Args:
            tokens: the training part: [token].
            stride: tokens between the starts of two neighbouring windows.
            batch_size: windows in a micro-batch.
            grad_accum_steps: micro-batches in a step.

        Raises:
            DataError: not even one window fits.
        """
        self.n_windows = count_windows(len(tokens), context_length, stride)
        if self.n_windows == 0:
            raise DataError(
                f"The training text has {len(tokens):,} tokens, but one window of context_length {context_length:,} "
                f"needs {context_length + 1:,}: take a longer text or a shorter context."
            )
        self._tokens = np.asarray(tokens)  # a plain view: indexing a memmap object itself costs more
        self._stride = stride
        self._batch_size = batch_size
        self._grad_accum_steps = grad_accum_steps
        self._window = np.arange(context_length + 1)
        self.windows_per_step = batch_size * grad_accum_steps
        self.tokens_per_step = self.windows_per_step * context_length
        self.steps_per_epoch = self.n_windows / self.windows_per_step
        self._order = ShuffledOrder(self.n_windows, seed, noun="window")

    @property
    def epochs(self) -> float:
        """How often the text has been read so far; 1.25 is once and a quarter."""
        return self._order.epochs

    def next_step(self) -> list[MicroBatch]:
        """The micro-batches of the next optimizer step: `grad_accum_steps` of `batch_size` windows each."""
        return [self._micro_batch() for _ in range(self._grad_accum_steps)]

    def state(self) -> dict[str, int]:
        """Where the run stands in the text."""
        return self._order.state()

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on from there; costs one permutation, however far it is.

        Raises:
            DataError: the place does not exist: the state comes from another text or other windows.
        """
        self._order.load_state(state)

    def _micro_batch(self) -> MicroBatch:
        starts = self._order.next(self._batch_size) * self._stride  # [batch]
        ids = self._tokens[starts[:, None] + self._window].astype(np.int64)  # [batch, pos + 1]
        return MicroBatch(_tensor(ids[:, :-1]), _tensor(ids[:, 1:]))


class ValidationWindows:
    """The windows of the validation loss, in batches; iterate as often as you like, it is always the same."""

    def __init__(
        self, tokens: NDArray[np.integer], *, context_length: int, batch_size: int, eval_tokens: int | None = None
    ):
        """
        Args:
            tokens: the validation part: [token].
            eval_tokens: how much of it to read; None for all.
        """
        self._tokens = np.asarray(tokens)
        self._context_length = context_length
        self._batch_size = batch_size
        self.starts = validation_windows(len(tokens), context_length, eval_tokens)

    def __len__(self) -> int:
        """Batches in one pass."""
        return -(-len(self.starts) // self._batch_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        for first in range(0, len(self.starts), self._batch_size):
            starts = self.starts[first : first + self._batch_size]
            inputs = np.zeros((len(starts), self._context_length), dtype=np.int64)
            labels = np.full_like(inputs, IGNORE)
            for row, start in enumerate(starts):
                window = self._tokens[start : start + self._context_length + 1]
                inputs[row, : len(window) - 1] = window[:-1]
                labels[row, : len(window) - 1] = window[1:]
            yield MicroBatch(torch.from_numpy(inputs), torch.from_numpy(labels))

    def label_ids(self) -> NDArray[np.integer]:
        """All tokens that are predicted in one pass: [label]. Their bytes make bits per byte exact."""
        return np.concatenate([self._tokens[s + 1 : s + 1 + self._context_length] for s in self.starts])


def _tensor(ids: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(ids))
