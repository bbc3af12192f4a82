"""Rows as micro-batches: padded on the right, or packed several to a sequence.

Padding comes after a row, and a causal model never looks ahead: no mask is needed, only labels that do not count.
Packed rows lie one behind the other, each with positions from 0: that is how transformers tells them apart (and only
without a cache), so that none sees another.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.data.batches import IGNORE, MicroBatch
from lab.data.order import ShuffledOrder
from lab.finetuning.examples import Example

Packed = tuple[Example, ...]


@dataclass(frozen=True)
class Extent:
    """How large the sequences of a training can be: what its memory depends on."""

    tokens: int
    """Of the longest sequence."""
    labels: int
    """Of the sequence that has most: tokens that are learnt."""

    @classmethod
    def of(cls, sequences: Iterable[Packed]) -> "Extent":
        sizes = [(sum(len(row.ids) for row in one), sum(row.n_labels for row in one)) for one in sequences]
        return cls(max(tokens for tokens, _ in sizes), max(labels for _, labels in sizes))


@dataclass(slots=True)
class RowBatch(MicroBatch):
    """One forward and backward pass over rows."""

    positions: Tensor | None = None
    """int64 [batch, pos], of packed rows: 0 where a row begins. None: one row in each sequence."""

    @classmethod
    def of(cls, sequences: Sequence[Packed], *, packed: bool) -> "RowBatch":
        """Sequences side by side, as long as the longest of them.

        The label of a position is the token behind it. The last token of a row has none: behind it lies padding, or
        another row.
        """
        lengths = [sum(len(example.ids) for example in sequence) for sequence in sequences]
        shape = (len(sequences), max(lengths))
        inputs = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORE, dtype=torch.int64)
        positions = torch.arange(shape[1], dtype=torch.int64).repeat(shape[0], 1)
        for number, sequence in enumerate(sequences):
            start = 0
            for example in sequence:
                n = len(example.ids)
                ids, learn = torch.tensor(example.ids), torch.tensor(example.learn)
                inputs[number, start : start + n] = ids
                labels[number, start : start + n - 1] = torch.where(learn[1:], ids[1:], IGNORE)
                positions[number, start : start + n] = torch.arange(n)
                start += n
            # Padding is a row of its own, which nobody sees: its positions begin at 0 as well.
            positions[number, start:] = torch.arange(shape[1] - start)
        made = cls(inputs, labels, positions=positions if packed else None)
        made.n_tokens = sum(lengths)
        return made


class RowBatches:
    """Training rows without end, one optimizer step at a time.

    Each epoch is a new permutation of all sequences. Where an epoch ends within a step, the next one fills it up.
    """

    def __init__(
        self, rows: Sequence[Example], *, batch_size: int, grad_accum_steps: int, seed: int, pack_to: int | None
    ):
        """
        Args:
            batch_size: sequences in a micro-batch.
            grad_accum_steps: micro-batches in a step.
            pack_to: pack rows into sequences of at most this many tokens; None: a row is a sequence.
        """
        self.packed = pack_to is not None
        self.sequences = [(row,) for row in rows] if pack_to is None else pack(rows, pack_to)
        self._batch_size = batch_size
        self._grad_accum_steps = grad_accum_steps
        self._order = ShuffledOrder(len(self.sequences), seed, noun="sequence")
        self.steps_per_epoch = len(self.sequences) / (batch_size * grad_accum_steps)

    def next_step(self) -> list[MicroBatch]:
        """The micro-batches of the next optimizer step."""
        return [self._micro_batch() for _ in range(self._grad_accum_steps)]

    def state(self) -> dict[str, int]:
        """Where the run stands in the rows."""
        return self._order.state()

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on from there.

        Raises:
            DataError: the place does not exist: the state comes from other rows.
        """
        self._order.load_state(state)

    def _micro_batch(self) -> RowBatch:
        chosen = [self.sequences[number] for number in self._order.next(self._batch_size)]
        return RowBatch.of(chosen, packed=self.packed)


class ValidationRows:
    """The rows of the validation loss, in batches; iterate as often as you like, it is always the same."""

    def __init__(self, rows: Sequence[Example], *, batch_size: int, eval_tokens: int | None):
        """
        Args:
            eval_tokens: how much to read; None for all rows.
        """
        self.rows = evenly(rows, eval_tokens)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[RowBatch]:
        # Rows of like length side by side: less padding, the same sum.
        rows = sorted(self.rows, key=lambda row: len(row.ids))
        for first in range(0, len(rows), self._batch_size):
            yield RowBatch.of([(row,) for row in rows[first : first + self._batch_size]], packed=False)


def evenly(rows: Sequence[Example], eval_tokens: int | None) -> list[Example]:
    """Evenly spaced rows that together have about `eval_tokens` tokens; at least one."""
    total = sum(len(row.ids) for row in rows)
    if eval_tokens is None or total <= eval_tokens:
        return list(rows)
    count = max(1, int(len(rows) * eval_tokens / total))
    return [rows[number * len(rows) // count] for number in range(count)]


def pack(rows: Sequence[Example], length: int) -> list[Packed]:
    """Rows in as few sequences of at most `length` tokens as best-fit finds: the longest first, each where the least
    room is left over. A row longer than `length` stays alone."""
    room: list[tuple[int, int]] = []  # room left and number of each sequence, least room first
    packed: list[list[Example]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        place = bisect_left(room, (len(row.ids), -1))
        if place == len(room):
            packed.append([])
            left, number = length, len(packed) - 1
        else:
            left, number = room.pop(place)
        packed[number].append(row)
        insort(room, (left - len(row.ids), number))
    return [tuple(rows) for rows in packed]
