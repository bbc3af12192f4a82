"""A knob's value that was never replayed, answered from others that were."""

import statistics
import time
from typing import Any

import pytest

from lab.config import PRESETS, changed
from lab.forecast import lookup
from lab.forecast.ahead import neighbours
from lab.forecast.lookup import KNOBS
from lab.forecast.memory import forecast
from lab.forecast.patience import GivenUpError, without_replays

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = changed(
    PRESETS["pocket"], vocab_size=2_000, emb_dim=128, n_layers=5, n_heads=4, context_length=128, batch_size=8
)
BASES: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "bf16, manual attention, dropout": {"precision": "bf16", "attention_impl": "manual", "drop_rate": 0.1},
    "GPT-2's vocabulary: the loss in chunks": {"precision": "fp32", "vocab_size": 50_257, "sample_tokens": 40},
    "8-bit, checkpointed, accumulated": {
        "precision": "bf16", "optimizer": "adamw_8bit", "gradient_checkpointing": True, "grad_accum_steps": 2,
    },
}  # fmt: skip
ASKED: list[dict[str, int]] = [
    {"emb_dim": 96}, {"emb_dim": 148}, {"emb_dim": 320}, {"emb_dim": 512}, {"context_length": 90},
    {"context_length": 200}, {"context_length": 384}, {"n_heads": 1}, {"n_heads": 16},
    {"emb_dim": 320, "context_length": 200}, {"context_length": 90, "n_heads": 2},
    {"emb_dim": 512, "context_length": 300, "n_heads": 16, "batch_size": 20, "n_layers": 9},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_replayed() -> None:
    lookup.forget()


@pytest.mark.parametrize(("name", "device"), [*((name, "cpu") for name in BASES), ("fp32", "cuda")])
def test_a_value_between_replayed_ones_is_within_half_a_percent_of_its_own_replay_and_there_at_once(
    name: str, device: Any
) -> None:
    config = changed(SMALL, **BASES[name])
    for values in ({}, *neighbours(config)):
        if values.keys() <= {*KNOBS, "stride"}:
            forecast(changed(config, **values), device)
    took, said = [], []
    questions = [changed(config, **values, stride=None) for values in ASKED]
    for near in questions:
        started = time.process_time()
        with without_replays():
            said.append(forecast(near, device).peak_bytes)
        took.append(time.process_time() - started)
    replayed = [forecast(near, device).peak_bytes for near in questions]  # only now: nothing of it was known above
    for near, one, other in zip(questions, said, replayed, strict=True):
        assert one == pytest.approx(other, rel=0.005), near.model
    assert statistics.median(took) < 0.1, took


def test_what_was_replayed_stays_as_it_was_and_two_values_are_not_enough() -> None:
    config = changed(SMALL, precision="fp32", n_layers=2)
    for width in (64, 128):
        forecast(changed(config, emb_dim=width), "cpu")
    exact = forecast(config, "cpu")
    with without_replays():
        assert forecast(config, "cpu") == exact
        with pytest.raises(GivenUpError):
            forecast(changed(config, emb_dim=256), "cpu")
    forecast(changed(config, emb_dim=192), "cpu")
    with without_replays():
        near = forecast(changed(config, emb_dim=256), "cpu")
    replayed = forecast(changed(config, emb_dim=256), "cpu")
    assert near.peak_bytes == pytest.approx(replayed.peak_bytes, rel=1e-3)
    assert near.peak.line == replayed.peak.line
    assert near.phases.keys() == replayed.phases.keys()
    for name, moment in near.phases.items():
        assert moment.bytes == pytest.approx(replayed.phases[name].bytes, rel=1e-3)
