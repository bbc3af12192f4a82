"""The learning rate, against values worked out by hand."""

import itertools
import math

import pytest

from lab.config import OptimConfig
from lab.training.schedule import learning_rate_at, warmup_steps


def rates(total: int | None, updates: list[int], **knobs: object) -> list[float]:
    optim = OptimConfig(learning_rate=1.0, min_lr_ratio=0.1, **knobs)  # type: ignore[arg-type]
    return [learning_rate_at(update, optim, total) for update in updates]


def test_table_of_a_run_of_nine_steps_with_four_of_warm_up() -> None:
    """Warm-up ends with the full rate at update 3; the cosine spans updates 4 … 8 and ends at a tenth."""
    assert rates(9, list(range(9)), warmup_steps=4) == pytest.approx(
        [
            0.25, 0.5, 0.75, 1.0,
            1.0,                                           # cos 0
            0.1 + 0.9 * (1 + math.sqrt(2) / 2) / 2,        # cos 45°
            0.1 + 0.9 / 2,                                 # cos 90°
            0.1 + 0.9 * (1 - math.sqrt(2) / 2) / 2,        # cos 135°
            0.1,                                           # cos 180°
        ],
        abs=1e-15,
    )  # fmt: skip


def test_first_update_already_moves_the_weights() -> None:
    assert rates(1_000, [0], warmup_steps=10) == [0.1]


def test_last_warm_up_step_has_the_full_rate() -> None:
    assert rates(1_000, [9, 10], warmup_steps=10) == [1.0, 1.0]


def test_without_a_warm_up_the_first_update_has_the_full_rate() -> None:
    assert rates(100, [0], warmup_steps=0) == [1.0]


def test_last_update_has_the_final_rate_exactly() -> None:
    assert rates(100, [99], warmup_steps=10) == pytest.approx([0.1], abs=1e-15)


def test_past_its_end_the_cosine_stays_down() -> None:
    assert rates(100, [100, 5_000], warmup_steps=10) == pytest.approx([0.1, 0.1], abs=1e-15)


def test_constant_schedule_warms_up_and_stays() -> None:
    assert rates(100, [0, 3, 4, 50, 99], warmup_steps=4, schedule="constant") == [0.25, 1.0, 1.0, 1.0, 1.0]


def test_horizon_past_the_end_leaves_the_rate_in_mid_fall() -> None:
    """50 steps on a schedule of 101: at update 50 the cosine stands at 90°."""
    assert rates(51, [50], warmup_steps=0, schedule_steps=101) == pytest.approx([0.55])


def test_horizon_before_the_end_holds_the_final_rate_from_there_on() -> None:
    assert rates(100, [10, 99], warmup_steps=0, schedule_steps=11) == pytest.approx([0.1, 0.1])


def test_final_ratio_of_zero_ends_at_nothing_and_of_one_never_falls() -> None:
    zero, one = (OptimConfig(learning_rate=2.0, warmup_steps=0, min_lr_ratio=ratio) for ratio in (0.0, 1.0))
    assert learning_rate_at(9, zero, 10) == pytest.approx(0.0, abs=1e-15)
    assert [learning_rate_at(update, one, 10) for update in range(10)] == [2.0] * 10


def test_run_of_one_step_has_a_rate() -> None:
    assert rates(1, [0]) == [1.0]


def test_while_minutes_are_being_measured_the_rate_only_warms_up() -> None:
    assert rates(None, [0, 49, 99, 100, 10_000]) == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(("horizon", "expected"), [(1, 0), (20, 1), (399, 19), (2_000, 100), (1_000_000, 100)])
def test_default_warm_up_is_a_twentieth_of_the_run_and_at_most_100(horizon: int, expected: int) -> None:
    assert warmup_steps(OptimConfig(), horizon) == expected


def test_rate_is_continuous_where_the_warm_up_ends() -> None:
    steps = rates(2_000, list(range(2_000)), warmup_steps=100)
    assert max(abs(b - a) for a, b in itertools.pairwise(steps)) <= 0.01 + 1e-12
