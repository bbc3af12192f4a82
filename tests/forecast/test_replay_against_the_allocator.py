"""The forecast against the outside reference: what PyTorch's allocator handed out during the real step."""

import statistics
from typing import Any

import pytest
import torch

from lab.config import PRESETS, PretrainConfig, changed
from lab.forecast.memory import step_timeline
from tests.forecast.reference import real_step_peak

TINY = changed(
    PRESETS["pocket"],
    vocab_size=600,
    emb_dim=48,
    n_layers=3,
    n_heads=4,
    context_length=48,
    batch_size=8,
    precision="fp32",
)

CONFIGS: list[dict[str, Any]] = [
    {},
    {"batch_size": 1},
    {"batch_size": 33},
    {"n_layers": 1},
    {"n_layers": 2},
    {"n_layers": 7},
    {"context_length": 16},
    {"context_length": 200},
    {"emb_dim": 16},
    {"emb_dim": 128},
    {"n_heads": 1},
    {"vocab_size": 65},
    {"vocab_size": 50_257, "emb_dim": 16},
    {"vocab_size": 50_257, "emb_dim": 16, "batch_size": 20},
    {"vocab_size": 50_257, "emb_dim": 16, "tie_embeddings": True},
    {"tie_embeddings": True},
    {"qkv_bias": True},
    {"attention_impl": "manual"},
    {"attention_impl": "manual", "context_length": 150, "batch_size": 4},
    {"attention_impl": "manual", "precision": "bf16", "context_length": 100},
    {"attention_drop_rate": 0.1, "context_length": 100},
    {"drop_rate": 0.1},
    {"drop_rate": 0.1, "gradient_checkpointing": True, "n_layers": 6},
    {"gradient_checkpointing": True, "batch_size": 32},
    {"gradient_checkpointing": True, "batch_size": 32, "precision": "bf16", "n_layers": 5},
    {"precision": "bf16"},
    {"precision": "bf16", "batch_size": 40},
    {"precision": "bf16", "tie_embeddings": True},
    {"precision": "fp16"},
    {"precision": "fp16", "grad_accum_steps": 2},
    {"grad_accum_steps": 3},
    {"grad_accum_steps": 2, "gradient_checkpointing": True, "precision": "bf16"},
    {"optimizer": "adamw_8bit", "emb_dim": 128},
    {"optimizer": "adamw_8bit", "emb_dim": 96, "precision": "bf16", "grad_accum_steps": 2},
    {"grad_clip": 0.0},
    {"emb_dim": 96, "n_layers": 9, "context_length": 32, "batch_size": 3},
]


@pytest.mark.filterwarnings("ignore")
def test_forecast_is_within_1_percent_of_the_allocators_peak_in_the_median_and_3_in_the_worst_case() -> None:
    torch.set_num_threads(1)
    assert len(CONFIGS) >= 30
    errors = {}
    for values in CONFIGS:
        config = changed(TINY, **values)
        errors[str(values)] = _error(config)
    worst = max(errors, key=lambda name: abs(errors[name]))
    median = statistics.median(abs(error) for error in errors.values())
    assert median <= 0.01, f"median error {median:.2%}: {errors}"
    assert abs(errors[worst]) <= 0.03, f"{worst}: {errors[worst]:+.2%}"


def _error(config: PretrainConfig) -> float:
    real = real_step_peak(config)
    return step_timeline(config, "cpu").peak_bytes / real - 1
