"""What would fit."""

import pytest

from lab.config import PRESETS, changed
from lab.forecast.budget import Budget, gpu_budget
from lab.forecast.fit import fit, largest, out_of_memory_advice, savings
from lab.forecast.memory import peak_bytes

# Large enough that the activations of a step decide, not the workspace or the evaluation.
RUN = changed(
    PRESETS["pocket"],
    vocab_size=300,
    emb_dim=128,
    n_layers=12,
    n_heads=4,
    context_length=128,
    batch_size=64,
    precision="fp32",
)

pytestmark = pytest.mark.filterwarnings("ignore")


def budget(share: float) -> Budget:
    """A GPU that has room for this share of what RUN needs."""
    empty = Budget("", "cuda", 0)
    return Budget(
        "a small GPU", "cuda", round(share * peak_bytes(RUN, "cuda")) + empty.context_bytes + empty.reserve_bytes
    )


def test_what_fits_already_is_answered_first_only_faster_settings_come_before_it() -> None:
    options = fit(RUN, budget(1.01))
    assert any(option.changes == {} for option in options) or options[0].slowdown < 1


@pytest.mark.parametrize("share", [0.8, 0.4])
def test_every_answer_fits_and_the_fastest_comes_first(share: float) -> None:
    small = budget(share)
    options = fit(RUN, small)
    assert options
    for option in options:
        config = changed(RUN, **option.changes)
        assert peak_bytes(config, "cuda") <= small.limit_bytes
        assert option.same_learning
        assert config.sequences_per_step == RUN.sequences_per_step, "the effective batch stays"
    assert [option.slowdown for option in options] == sorted(option.slowdown for option in options)


def test_where_nothing_else_helps_the_context_is_shortened_and_that_is_said() -> None:
    least = peak_bytes(
        changed(RUN, batch_size=1, gradient_checkpointing=True, precision="bf16", optimizer="adamw_8bit"), "cuda"
    )
    options = fit(RUN, budget(0.97 * least / peak_bytes(RUN, "cuda")))
    assert all(not option.same_learning for option in options)
    assert all("context" in option.sentence for option in options)


def test_one_more_than_the_largest_batch_does_not_fit() -> None:
    small = budget(0.5)
    batch = largest(RUN, "batch_size", small)
    assert batch is not None
    assert 1 < batch < RUN.train.batch_size
    assert peak_bytes(changed(RUN, batch_size=batch), "cuda") <= small.limit_bytes
    assert peak_bytes(changed(RUN, batch_size=batch + 1), "cuda") > small.limit_bytes
    assert largest(RUN, "batch_size", Budget("nothing", "cuda", 1)) is None


def test_each_knobs_saving_is_what_the_forecast_of_the_changed_config_says() -> None:
    now = peak_bytes(RUN, "cuda")
    found = savings(RUN, "cuda")
    by_knob = {saving.knob: saving for saving in found}
    assert by_knob["gradient_checkpointing"].saves_bytes == now - peak_bytes(
        changed(RUN, gradient_checkpointing=True), "cuda"
    )
    assert [saving.saves_bytes for saving in found] == sorted((s.saves_bytes for s in found), reverse=True)


def test_after_out_of_memory_every_advice_changes_something_and_fits() -> None:
    limit = round(0.6 * peak_bytes(RUN, "cuda"))
    advice = out_of_memory_advice(RUN, "cuda", limit)
    assert advice
    for option in advice:
        assert option.changes
        assert peak_bytes(changed(RUN, **option.changes), "cuda") <= limit


def test_medium_at_a_batch_of_64_can_be_made_to_fit_16_gb() -> None:
    options = fit(changed(PRESETS["medium"], precision="bf16", batch_size=64), gpu_budget(16), wanted=1)
    assert options
    assert options[0].margin_bytes >= 0
