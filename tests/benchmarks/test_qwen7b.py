"""`make qwen7b`, its whole path, on Qwen2.5-7B's shape at two layers with random weights.

Heads, groups of heads, biases and the untied output layer are those of the 7B model. The widths are a quarter of its
own, because the whole ones take a CPU half a minute to turn into 4 bits, each time; LAB_WHOLE_WIDTHS=1 takes those.
"""

import os
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.gpu.qwen7b import study
from lab.rundir import find_run
from tests.finetuning.conftest import quick as quick
from tests.finetuning.tokenizers import saved_tokenizer


@pytest.fixture
def two_layers(tmp_path: Path) -> Path:
    part = 1 if os.environ.get("LAB_WHOLE_WIDTHS") else 4
    config = transformers.Qwen2Config(
        vocab_size=264, hidden_size=3_584 // part, intermediate_size=18_944 // part, num_hidden_layers=2,
        num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=2_048, tie_word_embeddings=False,
        eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    return saved_tokenizer(tmp_path / "model")


@pytest.mark.slow
def test_tuned_compared_and_probed_in_one_go(two_layers: Path, quick: Path) -> None:
    found = study(
        str(two_layers), "--max-steps", "1", "--batch-size", "1", "--eval-tokens", "100", "--precision", "bf16",
        "--sample-tokens", "0", "--max-length", "512", "--device", "cpu", "--threads", "1", examples=40,
    )  # fmt: skip
    assert found["finetune"]["status"] == "finished"
    run = find_run(found["finetune"]["run_id"])
    assert run.config().model.method == "qlora"  # type: ignore[union-attr]
    assert found["compare"]["kl_nats"] > 0
    assert all(len(rows) == 3 for rows in found["probe"].values())
