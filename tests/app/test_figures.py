from typing import Any

import pytest

from app.ui.figures import Measured, TextSize, figures, windows_per_epoch
from lab.config import PRESETS, PretrainConfig, changed

TEXT = TextSize(tokens=10_000, vocab_size=65)


def pocket(**values: Any) -> PretrainConfig:
    return changed(PRESETS["pocket"], **values)


def test_effective_batch_counts_accumulated_sequences_and_their_tokens() -> None:
    found = figures(pocket(batch_size=12, grad_accum_steps=4, context_length=64), TEXT)
    assert (found.sequences_per_step, found.tokens_per_step) == (48, 48 * 64)


def test_epochs_follow_from_steps_by_the_windows_of_the_training_part() -> None:
    config = pocket(max_steps=100, batch_size=10, context_length=64, val_fraction=0.1)
    windows = windows_per_epoch(config, TEXT)
    assert windows == (9_000 - 65) // 64 + 1
    assert figures(config, TEXT).epochs == pytest.approx(100 * 10 / windows)


def test_a_budget_in_epochs_becomes_the_steps_that_the_trainer_will_make() -> None:
    from lab.data.batches import WindowBatches

    config = pocket(max_epochs=1.5, batch_size=10)
    batches = WindowBatches(list(range(9_000)), context_length=64, stride=64, batch_size=10, seed=0)
    steps = figures(config, TEXT).steps
    assert steps is not None
    assert steps - 1 < 1.5 * batches.steps_per_epoch <= steps


def test_a_budget_in_minutes_has_no_steps_until_a_speed_was_measured() -> None:
    config = pocket(max_minutes=2.0)
    assert figures(config, TEXT).steps is None
    measured = [Measured(name="first", config=config, tokens_per_second=7_680)]  # ten steps of 768 tokens a second
    assert figures(config, TEXT, measured).steps is None or figures(config, TEXT, measured).steps == 1_200


def test_time_of_the_same_work_is_what_was_measured() -> None:
    config = pocket(vocab_size=65, max_steps=100)
    found = figures(config, TEXT, [Measured(name="first", config=config, tokens_per_second=7_680)])
    assert found.seconds == pytest.approx(10)
    assert found.basis == "measured in first"


def test_time_of_other_work_is_scaled_and_says_so() -> None:
    config = pocket(vocab_size=65, max_steps=100)
    measured = [Measured(name="first", config=config, tokens_per_second=7_680)]
    wider = figures(changed(config, emb_dim=256), TEXT, measured)
    assert wider.seconds is not None
    assert 20 < wider.seconds < 40  # a block's work grows with the square of the width, the rest less
    assert wider.basis.startswith("roughly")


def test_parameters_and_bytes_move_with_the_vocabulary_of_the_text() -> None:
    small, large = (figures(pocket(), TextSize(tokens=10_000, vocab_size=v)) for v in (65, 165))
    assert large.parameters["total"] - small.parameters["total"] == 100 * 128 * 2  # embedding and output layer
    assert small.memory["weights"] == 4 * small.parameters["total"]
    assert small.memory["total"] == sum(small.memory[part] for part in ("weights", "gradients", "optimizer"))
