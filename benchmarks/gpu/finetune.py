"""Qwen2.5-7B's shape with random weights, tuned in 4 bits within 16 GB at a length of 2,048: compatible and fast mode.

    python -m benchmarks.gpu.finetune [--steps 12] [--mode compatible fast]

Nothing is downloaded: a folder with random weights is made once (15 GB of disk), and both modes train on it as
any run does. "16 GB" is a limit that PyTorch's allocator keeps. Needs peft and bitsandbytes; fast mode also Unsloth, so
both are run with its environment's Python (`make unsloth`). The figures go to benchmarks/results/gpu_finetune.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.results import store

LIMIT_GIB = 16
LENGTH = 2_048
WARM_UP = 3  # steps that do not count


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--mode", nargs="*", default=["compatible", "fast"], choices=["compatible", "fast"])
    options.add_argument("--layers", type=int, default=28)
    options.add_argument("--one", help=argparse.SUPPRESS)
    args = options.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA GPU here: nothing is measured.")
    if args.one:
        print(json.dumps(measured(args.one, args.steps, args.layers)))
        return
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "limit_gib": LIMIT_GIB, "length": LENGTH}
    for mode in args.mode:  # each in a process of its own: fast mode patches what it finds
        command = [sys.executable, "-m", "benchmarks.gpu.finetune", "--one", mode, "--steps", str(args.steps),
                   "--layers", str(args.layers)]  # fmt: skip
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        figures[mode] = json.loads(ended.stdout) if ended.returncode == 0 else {"failed": ended.returncode}
        print(mode, figures[mode])
    store("gpu_finetune", figures)


def measured(mode: str, steps: int, layers: int) -> dict[str, Any]:
    """One run of this mode: tokens per second and the most that the allocator held."""
    import torch

    if mode == "fast":  # before transformers is loaded
        os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
        import_module("unsloth")
    from lab import paths
    from lab.config import build_finetune
    from lab.finetuning.fast_worker import FastFineTuneJob
    from lab.finetuning.job import FineTuneJob
    from lab.rundir import create_run
    from lab.training.run import train_run

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT_GIB * 2**30 / total))
    folder = paths.cache() / f"random-qwen2.5-7b-{layers}"
    config = build_finetune(
        {
            "model": str(random_model(folder, layers)), "method": "qlora", "mode": mode, "device": "cuda",
            "dataset": str(rows(folder)), "max_length": LENGTH, "batch_size": 1, "max_steps": steps,
            "gradient_checkpointing": True, "optimizer": "paged_adamw_8bit", "precision": "bf16", "sample_tokens": 0,
            "eval_every": steps, "eval_tokens": 1,
        }
    )  # fmt: skip
    recorder = _Metrics()
    job = FastFineTuneJob if mode == "fast" else FineTuneJob
    outcome = train_run(create_run(config), recorder, None, None, job)
    if outcome.error:
        raise SystemExit(outcome.error)
    seconds = [
        later - earlier for earlier, later in zip(recorder.at[WARM_UP:], recorder.at[WARM_UP + 1 :], strict=False)
    ]
    return {
        "seconds_per_step": round(statistics.median(seconds), 4),
        "tokens_per_second": round(LENGTH / statistics.median(seconds), 1),
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "val_loss": outcome.val_loss,
    }


def random_model(folder: Path, layers: int) -> Path:
    """The 7B model's shape in bf16, made once, with a tokenizer of bytes."""
    if (folder / "config.json").exists():
        return folder
    import torch
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=152_064, hidden_size=3_584, intermediate_size=18_944, num_hidden_layers=layers,
        num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=LENGTH, tie_word_embeddings=False,
        eos_token_id=2,
    )  # fmt: skip
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    _byte_tokenizer().save_pretrained(folder)
    return folder


def rows(folder: Path) -> Path:
    """Rows of nearly the whole length, a byte each token."""
    path = folder / "rows.jsonl"
    text = "a quick brown fox jumps over the lazy dog; "
    answer = (text * (LENGTH // len(text) + 1))[: LENGTH - 100]
    lines = [json.dumps({"prompt": f"Say {number}.", "completion": f"{number} {answer}"}) for number in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _byte_tokenizer() -> Any:
    """Every byte is a token."""
    import tokenizers
    import transformers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


class _Metrics:
    """Keeps when each step ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def rows(self, table: str, rows: Any) -> None:
        if table == "metrics":
            self.at += [row["elapsed_s"] for row in rows if row["name"] == "train/loss"]

    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


if __name__ == "__main__":
    main()
