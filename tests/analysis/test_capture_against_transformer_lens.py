"""The yardstick: TransformerLens, raw bridge, on tiny random models of every family. Nothing is downloaded."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lab.analysis.capture import capture
from lab.models.gpt2_weights import export_gpt2
from tests.tiny_models import CONFIGS, PARALLEL, saved, some_ids, tiny, tiny_gpt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    bridge = pytest.importorskip("transformer_lens.model_bridge", reason="transformer-lens is not installed")

TOLERANCE = 1e-5
BRIDGED = [name for name in CONFIGS if name != "phi3"]


def boot(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bridge.TransformerBridge.boot_transformers(str(folder), device="cpu")


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


def compare(found: Any, reference: Any, parallel: bool) -> None:
    with torch.no_grad():
        logits, cache = reference.run_with_cache(found.ids)
    assert worst(found.logits, logits) <= TOLERANCE
    for layer in range(found.n_layers):
        at = f"blocks.{layer}"
        assert worst(found.residual["pre_attn"][layer], cache[f"{at}.hook_resid_pre"]) <= TOLERANCE
        assert worst(found.residual["post_ffn"][layer], cache[f"{at}.hook_resid_post"]) <= TOLERANCE
        assert worst(found.attention[layer], cache[f"{at}.attn.hook_pattern"]) <= TOLERANCE
        if not parallel:
            assert worst(found.residual["post_attn"][layer], cache[f"{at}.hook_resid_mid"]) <= TOLERANCE


@pytest.mark.parametrize("name", BRIDGED)
def test_logits_stream_and_patterns_equal_transformer_lens(name: str, tmp_path: Path) -> None:
    folder = saved(tiny(name), tmp_path / name)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = capture(ours, some_ids())
    assert found.check.ok, found.check.sentence
    assert found.virtual == ({"post_attn"} if name in PARALLEL else set())
    compare(found, boot(folder), name in PARALLEL)


def test_our_own_gpt_equals_transformer_lens_on_its_gpt2_export(tmp_path: Path) -> None:
    model = tiny_gpt()
    export_gpt2(model, tmp_path / "ours")
    found = capture(model, some_ids())
    assert found.check.ok, found.check.sentence
    compare(found, boot(tmp_path / "ours"), False)
