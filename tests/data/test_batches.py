from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.data.batches import IGNORE, MicroBatch, ValidationWindows, WindowBatches
from lab.data.order import ShuffledOrder
from lab.errors import DataError

TOKENS = np.arange(1_001, dtype=np.uint16)  # token = place, so a window tells where it starts


def batches(**changes: int) -> WindowBatches:
    settings = {"context_length": 10, "stride": 10, "batch_size": 4, "grad_accum_steps": 1, "seed": 1}
    return WindowBatches(TOKENS, **{**settings, **changes})


def starts_of(steps: list[list[MicroBatch]]) -> list[int]:
    return [start for step in steps for micro in step for start in micro.inputs[:, 0].tolist()]


def test_labels_are_the_inputs_one_place_further_on() -> None:
    (micro,) = batches().next_step()
    assert micro.inputs.shape == micro.labels.shape == (4, 10)  # [batch, pos]
    assert micro.inputs.dtype == micro.labels.dtype == torch.int64
    assert torch.equal(micro.labels, micro.inputs + 1)
    assert micro.n_labels == 40


def test_a_step_has_all_its_micro_batches() -> None:
    source = batches(grad_accum_steps=3)
    assert [micro.inputs.shape for micro in source.next_step()] == [(4, 10)] * 3
    assert source.tokens_per_step == 3 * 4 * 10
    assert source.steps_per_epoch == 100 / 12


def test_an_epoch_reads_every_window_once_and_shuffled() -> None:
    source = batches()
    starts = starts_of([source.next_step() for _ in range(25)])
    assert source.n_windows == 100
    assert starts != sorted(starts)
    assert sorted(starts) == list(range(0, 1_000, 10))


def test_each_epoch_has_its_own_order() -> None:
    source = batches()
    first, second = ([source.next_step() for _ in range(25)] for _ in range(2))
    assert sorted(starts_of(first)) == sorted(starts_of(second))
    assert starts_of(first) != starts_of(second)


def test_every_step_is_full_also_across_the_end_of_an_epoch() -> None:
    source = batches(batch_size=7)  # 100 windows are not a multiple of 7
    steps = [source.next_step() for _ in range(100)]
    assert {micro.inputs.shape for step in steps for micro in step} == {(7, 10)}
    assert Counter(starts_of(steps)) == dict.fromkeys(range(0, 1_000, 10), 7)
    assert source.epochs == 7.0


def test_a_step_may_be_longer_than_the_text() -> None:
    source = batches(batch_size=250)
    assert sorted(Counter(starts_of([source.next_step()])).values()) == [2] * 50 + [3] * 50
    assert source.epochs == 2.5


def test_a_smaller_stride_gives_overlapping_windows() -> None:
    source = batches(stride=5, batch_size=199)
    assert source.n_windows == 199  # (1001 - 10 - 1) // 5 + 1
    assert sorted(starts_of([source.next_step()])) == list(range(0, 995, 5))


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    source, again, other = batches(), batches(), batches(seed=2)
    np.random.seed(0)  # the default generators must not matter
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mine, same, different = (starts_of([s.next_step() for _ in range(30)]) for s in (source, again, other))
    assert mine == same
    assert mine != different
    assert torch.equal(torch.get_rng_state(), before)


@given(n_before=st.integers(0, 60), grad_accum_steps=st.integers(1, 3))
def test_a_resumed_run_reads_on_exactly_where_it_stopped(n_before: int, grad_accum_steps: int) -> None:
    source = batches(batch_size=7, grad_accum_steps=grad_accum_steps)
    for _ in range(n_before):
        source.next_step()
    resumed = batches(batch_size=7, grad_accum_steps=grad_accum_steps)
    resumed.load_state(source.state())
    assert resumed.epochs == source.epochs
    assert starts_of([resumed.next_step() for _ in range(20)]) == starts_of([source.next_step() for _ in range(20)])


def test_resuming_far_along_costs_one_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    source = batches()
    made: list[int] = []
    permutation = ShuffledOrder._permutation

    def counted(self: ShuffledOrder, epoch: int) -> np.ndarray:
        made.append(epoch)
        return permutation(self, epoch)

    monkeypatch.setattr(ShuffledOrder, "_permutation", counted)
    source.load_state({"epoch": 1_000_000, "position": 99})
    assert made == [1_000_000]
    assert source.state() == {"epoch": 1_000_000, "position": 99}


@pytest.mark.parametrize("state", [{"epoch": 0, "position": 101}, {"epoch": -1, "position": 0}])
def test_a_place_that_does_not_exist_is_told(state: dict[str, int]) -> None:
    with pytest.raises(DataError, match="does not exist among its 100 windows"):
        batches().load_state(state)


def test_a_text_without_one_window_is_told() -> None:
    with pytest.raises(DataError, match=r"has 10 tokens.* needs 11"):
        WindowBatches(TOKENS[:10], context_length=10, stride=10, batch_size=1, seed=0)


def validation(n_tokens: int, eval_tokens: int | None = None, batch_size: int = 4) -> ValidationWindows:
    return ValidationWindows(TOKENS[:n_tokens], context_length=10, batch_size=batch_size, eval_tokens=eval_tokens)


def predicted(windows: ValidationWindows) -> list[int]:
    return [label for batch in windows for label in batch.labels.flatten().tolist() if label != IGNORE]


@pytest.mark.parametrize("n_tokens", [11, 12, 20, 21, 22, 100, 1_001])
def test_the_whole_validation_text_is_predicted_once_but_for_its_first_token(n_tokens: int) -> None:
    windows = validation(n_tokens)
    assert predicted(windows) == list(range(1, n_tokens))
    assert windows.label_ids().tolist() == list(range(1, n_tokens))


def test_the_short_last_window_is_filled_with_labels_that_do_not_count() -> None:
    *_, last = validation(14)
    assert last.labels.tolist() == [list(range(1, 11)), [11, 12, 13] + [IGNORE] * 7]
    assert last.inputs.tolist() == [list(range(10)), [10, 11, 12] + [0] * 7]
    assert last.n_labels == 13


def test_validation_is_the_same_each_time_and_as_long_as_it_says() -> None:
    windows = validation(1_001, eval_tokens=333)
    first, second = predicted(windows), predicted(windows)
    assert first == second == windows.label_ids().tolist()
    assert len(first) == len(set(first)) == 330
    assert len(list(windows)) == len(windows) == 9  # 33 windows by 4
