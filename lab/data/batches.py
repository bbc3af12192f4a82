"""Windows of a text, shuffled, as whole optimizer steps.

The order is a pure function of (seed, epoch): nothing is drawn from a generator that others share, and where the
run stands is two numbers. So a resumed run reads on exactly where it stopped, without reading what came before.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

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

    def __post_init__(self) -> None:
        self.n_labels = int(np.count_nonzero(self.labels.numpy() != IGNORE))


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
        self._seed = seed
        self._window = np.arange(context_length + 1)
        self.windows_per_step = batch_size * grad_accum_steps
        self.tokens_per_step = self.windows_per_step * context_length
        self.steps_per_epoch = self.n_windows / self.windows_per_step
        self._epoch = 0
        self._position = 0  # windows of this epoch that were handed out
        self._order = self._permutation(0)

    @property
    def epochs(self) -> float:
        """How often the text has been read so far; 1.25 is once and a quarter."""
        return self._epoch + self._position / self.n_windows

    def next_step(self) -> list[MicroBatch]:
        """The micro-batches of the next optimizer step: `grad_accum_steps` of `batch_size` windows each."""
        return [self._micro_batch() for _ in range(self._grad_accum_steps)]

    def state(self) -> dict[str, int]:
        """Where the run stands in the text."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on from there; costs one permutation, however far it is.

        Raises:
            DataError: the place does not exist: the state comes from another text or other windows.
        """
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= self.n_windows:
            raise DataError(
                f"The stored place in the text (epoch {epoch}, window {position:,}) does not exist among its "
                f"{self.n_windows:,} windows: the text, the context or the stride has changed since."
            )
        self._epoch, self._position, self._order = epoch, position, self._permutation(epoch)

    def _micro_batch(self) -> MicroBatch:
        starts = self._next_windows(self._batch_size) * self._stride  # [batch]
        ids = self._tokens[starts[:, None] + self._window].astype(np.int64)  # [batch, pos + 1]
        return MicroBatch(_tensor(ids[:, :-1]), _tensor(ids[:, 1:]))

    def _next_windows(self, n: int) -> NDArray[np.int64]:
        taken = []
        while n:
            if self._position == self.n_windows:
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._permutation(self._epoch)
            piece = self._order[self._position : self._position + n]
            self._position += len(piece)
            n -= len(piece)
            taken.append(piece)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        return generator.permutation(self.n_windows)


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
