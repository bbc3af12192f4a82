"""What the forecast claims about itself."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import PRESETS, changed
from lab.forecast.ahead import warm
from lab.forecast.budget import RESERVE, Budget, gpu_budget
from lab.forecast.kinds import KINDS
from lab.forecast.memory import forecast, step_timeline
from lab.forecast.patience import without_replays
from lab.forecast.replay import replay_step
from lab.forecast.rules import CPU, CUDA, GIB
from lab.forecast.timeline import timeline
from lab.models.parts import state_bytes

TINY = changed(
    PRESETS["pocket"],
    vocab_size=300,
    emb_dim=32,
    n_layers=3,
    n_heads=4,
    context_length=32,
    batch_size=4,
    precision="fp32",
)
SOME: list[dict[str, Any]] = [
    {},
    {"precision": "bf16", "drop_rate": 0.1},
    {"gradient_checkpointing": True, "batch_size": 16},
    {"attention_impl": "manual", "grad_accum_steps": 2, "tie_embeddings": True},
    {"optimizer": "adamw_8bit", "emb_dim": 128},
]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("values", SOME, ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_two_depths_extrapolated_equal_the_full_replay(values: dict[str, Any], device: str) -> None:
    config = changed(TINY, n_layers=8, **values)
    full = timeline(replay_step(config, CUDA if device == "cuda" else CPU)).peak_bytes
    assert step_timeline(config, device).peak_bytes == pytest.approx(full, rel=0.005)


@pytest.mark.parametrize("values", [{}, {"precision": "bf16"}, {"gradient_checkpointing": True}], ids=str)
def test_a_batch_extrapolated_from_two_smaller_ones_equals_the_full_replay(values: dict[str, Any]) -> None:
    for size in ({"vocab_size": 50_257, "batch_size": 60}, {"batch_size": 200}):
        config = changed(TINY, n_layers=2, **size, **values)
        full = timeline(replay_step(config, CPU)).peak_bytes
        assert step_timeline(config, "cpu").peak_bytes == pytest.approx(full, rel=0.001)


@pytest.mark.parametrize("values", SOME, ids=str)
def test_one_step_with_the_state_from_the_start_equals_the_second_step(values: dict[str, Any]) -> None:
    config = changed(TINY, n_layers=2, **values)
    one = timeline(replay_step(config, CPU)).peak_bytes
    two = timeline(replay_step(config, CPU, steps=2)).peak_bytes
    assert one == pytest.approx(two, rel=0.001)


@given(st.integers(1, 40), st.integers(2, 60))
@settings(max_examples=4, deadline=None)
def test_need_grows_with_batch_and_with_length(batch: int, length: int) -> None:
    def peak(b: int, t: int) -> int:
        return step_timeline(changed(TINY, n_layers=2, batch_size=b, context_length=t), "cuda").peak_bytes

    here = peak(batch, length)
    assert peak(batch + 1, length) >= here
    assert peak(batch, length + 1) >= here


def test_need_grows_with_every_layer() -> None:
    peaks = [step_timeline(changed(TINY, n_layers=n), "cpu").peak_bytes for n in range(1, 9)]
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_and_optimizer_are_the_bytes_counted_by_hand_a_tied_matrix_once(optimizer: str, tied: bool) -> None:
    config = changed(TINY, emb_dim=64, n_layers=6, optimizer=optimizer, tie_embeddings=tied)
    live = step_timeline(config, "cpu").live[0]
    by_hand = state_bytes(config.model, optimizer)
    assert live[KINDS.index("weights")] == by_hand["weights"]
    assert live[KINDS.index("optimizer")] == pytest.approx(by_hand["optimizer"], rel=0.01)


def test_at_the_update_there_is_a_gradient_for_every_weight() -> None:
    found = forecast(TINY, "cpu")
    update = found.phases["update"].kinds
    assert update["gradients"] == update["weights"]
    assert update["activations"] < 100, "only the loss itself"


def test_the_kinds_add_up_to_the_peak_and_the_peak_is_the_highest_phase() -> None:
    found = forecast(changed(TINY, precision="bf16"), "cpu")
    for moment in found.phases.values():
        assert sum(moment.kinds.values()) == moment.bytes
    assert found.peak_bytes == max(moment.bytes for moment in found.phases.values())
    assert max(point.bytes for point in found.curve) == max(
        found.phases[name].bytes for name in ("forward", "backward", "update")
    )


def test_no_kind_is_negative_where_two_batches_tell_a_larger_one() -> None:
    # 2 × 256 positions of width 128 look like the feed-forward's matrix of 512 × 128: they were taken for its gradient.
    config = changed(TINY, emb_dim=128, n_layers=2, vocab_size=2_000, context_length=256, batch_size=8)
    for moment in forecast(config, "cpu").phases.values():
        assert min(moment.kinds.values()) >= 0, moment


def test_the_peak_names_the_line_of_our_code() -> None:
    large_vocabulary = forecast(changed(TINY, vocab_size=50_257), "cpu")
    assert large_vocabulary.peak.line.startswith("lab/training/loss.py:")
    deep = forecast(changed(TINY, n_layers=40, batch_size=64, vocab_size=10), "cpu")
    assert deep.peak.line.startswith("lab/models/gpt.py:")
    assert deep.peak.phase == "backward"


def test_checkpointing_trades_activations_for_time_and_accumulation_costs_no_activations() -> None:
    def activations(**values: Any) -> int:
        return (
            forecast(changed(TINY, batch_size=32, n_layers=6, **values), "cpu").phases["forward"].kinds["activations"]
        )

    assert activations(gradient_checkpointing=True) < activations() / 2
    assert activations(grad_accum_steps=8) == pytest.approx(activations(), rel=1e-4)


def test_knobs_that_memory_does_not_depend_on_share_one_forecast() -> None:
    forecast(changed(TINY, n_layers=4), "cpu")
    before = time.process_time()
    for number in range(20):
        forecast(changed(TINY, seed=number, learning_rate=1e-3 * (number + 1), n_layers=4 + number), "cpu")
    assert (time.process_time() - before) / 20 < 0.1, "layers, seeds and rates are answered without a replay"


def test_a_need_just_below_the_limit_of_16_gb_fits_and_just_above_does_not() -> None:
    budget = gpu_budget(16)
    limit = 16 * GIB - budget.context_bytes - RESERVE["cuda"]
    assert budget.limit_bytes == limit
    below, above = budget.verdict(limit - 1), budget.verdict(limit + 1)
    assert (below.colour, below.fits, below.margin_bytes) == ("amber", True, 1)
    assert (above.colour, above.fits, above.margin_bytes) == ("red", False, -1)
    assert budget.verdict(int(0.89 * limit)).colour == "green"


def test_real_configs_on_both_sides_of_16_gb() -> None:
    medium = changed(PRESETS["medium"], precision="bf16", drop_rate=0.0)
    assert forecast(changed(medium, batch_size=8), "cuda").verdict(gpu_budget(16)).fits
    too_large = forecast(changed(medium, batch_size=64), "cuda").verdict(gpu_budget(16))
    assert not too_large.fits
    assert "missing" in too_large.sentence


def test_the_budgets_context_is_not_counted_twice() -> None:
    found = forecast(TINY, "cuda")
    budget = Budget("exactly enough", "cuda", found.total_bytes + RESERVE["cuda"])
    assert abs(found.verdict(budget).margin_bytes) <= 1


def test_a_forecast_moves_no_shared_state() -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    forecast(changed(TINY, drop_rate=0.1, seed=99), "cpu")
    assert torch.equal(torch.rand(3), expected), "training must see the same random numbers"
    assert torch.get_default_dtype() is torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_a_step_is_not_replayed_again_for_what_only_looks() -> None:
    step_timeline(TINY, "cpu")
    with without_replays():
        step_timeline(changed(TINY, eval_tokens=9_000, sample_tokens=33), "cpu")


def test_after_warming_a_switch_is_answered_in_a_tenth_of_a_second() -> None:
    base = changed(TINY, n_layers=5)
    assert warm(base, ["cpu"]) >= 12
    started = time.process_time()
    for values in ({"gradient_checkpointing": True}, {"precision": "bf16"}, {"emb_dim": 64}, {"context_length": 64}):
        forecast(changed(base, **values), "cpu")
    assert (time.process_time() - started) / 4 < 0.1
    assert warm(base, ["cpu"], stop=lambda: True) == 0
