"""Rows as micro-batches: padding, packing, order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.data.batches import IGNORE
from lab.errors import DataError
from lab.finetuning.batches import RowBatch, RowBatches, ValidationRows, evenly, pack
from lab.finetuning.examples import Example


def example(length: int, prompt: int = 1, row: int = 1) -> Example:
    return Example(tuple(range(10, 10 + length)), tuple(place >= prompt for place in range(length)), row)


def test_a_label_is_the_token_behind_and_padding_and_prompt_have_none() -> None:
    batch = RowBatch.of([(example(5, prompt=3),), (example(3, prompt=1),)], packed=False)
    assert batch.inputs.tolist() == [[10, 11, 12, 13, 14], [10, 11, 12, 0, 0]]
    assert batch.labels.tolist() == [[IGNORE, IGNORE, 13, 14, IGNORE], [11, 12, IGNORE, IGNORE, IGNORE]]
    assert (batch.n_labels, batch.n_tokens, batch.positions) == (4, 8, None)


def test_packed_rows_begin_at_position_0_and_learn_nothing_across_their_border() -> None:
    batch = RowBatch.of([(example(3), example(2)), (example(4),)], packed=True)
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    assert batch.labels.tolist() == [[11, 12, IGNORE, 11, IGNORE], [11, 12, 13, IGNORE, IGNORE]]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(10, 40))
def test_packing_keeps_every_row_once_and_no_sequence_is_longer_than_asked(lengths: list[int], room: int) -> None:
    rows = [example(length, row=number) for number, length in enumerate(lengths)]
    packed = pack(rows, room)
    assert sorted(row.row for sequence in packed for row in sequence) == list(range(len(rows)))
    for sequence in packed:
        assert len(sequence) == 1 or sum(len(row.ids) for row in sequence) <= room
    # Best fit needs at most 1.7 times the sequences that would do, and one more.
    assert len(packed) <= 1.7 * max(len([n for n in lengths if n > room / 2]), sum(lengths) / room) + 1


def batches(**changes: int | None) -> RowBatches:
    rows = [example(3 + number % 5, row=number) for number in range(10)]
    return RowBatches(rows, **{"batch_size": 2, "grad_accum_steps": 2, "seed": 1, "pack_to": None, **changes})  # type: ignore[arg-type]


def test_an_epoch_reads_every_row_once_in_a_new_order_each_time() -> None:
    source = batches(batch_size=5, grad_accum_steps=2)
    epochs = [[batch.inputs for batch in source.next_step()] for _ in range(2)]
    assert source.steps_per_epoch == 1.0
    for epoch in epochs:
        assert sum(int((ids != 0).sum()) for ids in epoch) == sum(3 + number % 5 for number in range(10))
    assert not all(torch.equal(a, b) for a, b in zip(*epochs, strict=True) if a.shape == b.shape)


def test_a_stored_place_goes_on_with_the_same_rows() -> None:
    source, other = batches(), batches()
    for _ in range(3):
        source.next_step()
    other.load_state(source.state())
    for mine, theirs in zip(source.next_step(), other.next_step(), strict=True):
        assert torch.equal(mine.inputs, theirs.inputs)


def test_a_place_among_other_rows_is_refused() -> None:
    with pytest.raises(DataError, match="does not exist"):
        batches(pack_to=40).load_state({"epoch": 0, "position": 9})


def test_validation_reads_evenly_spaced_rows_and_the_same_each_time() -> None:
    rows = [example(10, row=number) for number in range(100)]
    assert [row.row for row in evenly(rows, 100)] == list(range(0, 100, 10))
    assert evenly(rows, None) == rows
    assert len(evenly(rows, 1)) == 1
    source = ValidationRows(rows, batch_size=4, eval_tokens=100)
    assert sum(batch.n_labels for batch in source) == sum(batch.n_labels for batch in source) == 90
