"""Pretraining on a GPU: every preset, precision and attention path trains, and its loss is the CPU's.

    PYTHONPATH=. python -m benchmarks.gpu.pretrain

Runs on a bare machine with torch, numpy, pydantic, safetensors and httpx. Text is the bundled Shakespeare; ids come
from its bytes, spread over the vocabulary, so no tokenizer is needed. For each of nano, small and medium × fp32, bf16,
fp16 × both attention paths it takes ten steps and stores the losses, the greatest difference from the same ten steps on
the CPU in fp32 (nano and small; medium for three), the peak of memory against 16 GB, tokens per second, and the
attention kernel that PyTorch really chose.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lab.config import PRESETS, PretrainConfig, changed
from lab.data.batches import WindowBatches
from lab.models.gpt import build_gpt
from lab.models.parts import training_flops_per_token
from lab.training.attention_kernel import attention_kernel
from lab.training.loss import summed_cross_entropy
from lab.training.optimizer import build_optimizer, set_learning_rate
from lab.training.precision import DTYPES, Precision
from lab.training.schedule import learning_rate_at

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "gpu_pretrain.json"
STEPS = 10
CPU_STEPS = {"nano": 10, "small": 10, "medium": 3}
SIXTEEN_GB = 16e9
TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2, "fp16": 5e-2}
"""Nats per token by which ten steps may differ from the CPU's in fp32 (TF32 is off here)."""


def tokens_of(vocab_size: int) -> np.ndarray:
    raw = np.frombuffer((ROOT / "corpora" / "shakespeare.txt").read_bytes(), dtype=np.uint8)
    return raw.astype(np.int64) * (vocab_size // 256)


def losses(config: PretrainConfig, device: torch.device, steps: int) -> dict[str, Any]:
    """Train a few steps without dropout; the first steps of the schedule, as a real run takes them."""
    precision = Precision(config.compute.precision, device)  # type: ignore[arg-type]
    model = build_gpt(config.model, seed=1, attention_impl=config.compute.attention_impl, device=device)
    optimizer, scaler = build_optimizer(model, config.optim), precision.scaler()
    batches = WindowBatches(
        tokens_of(config.model.vocab_size),
        context_length=config.model.context_length,
        stride=config.stride,
        batch_size=config.train.batch_size,
        seed=1,
    )
    found, clock = [], []
    for step in range(steps):
        (batch,) = batches.next_step()
        started = time.perf_counter()
        with precision.autocast():
            hidden = model.hidden(batch.inputs.to(device))
            total = summed_cross_entropy(hidden, model.out_head.weight, batch.labels.to(device))
        loss = total / batch.n_labels
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        set_learning_rate(optimizer, learning_rate_at(step, config.optim, steps))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        found.append(loss.item())  # waits for the device
        clock.append(time.perf_counter() - started)
    tokens = config.train.batch_size * config.model.context_length
    return {"losses": found, "tokens_per_second": tokens / float(np.median(clock[1:]))}


def measure(
    preset: str, precision: str, attention: str, reference: list[float], device: torch.device
) -> dict[str, Any]:
    config = changed(PRESETS[preset], precision=precision, attention_impl=attention, drop_rate=0.0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    result = losses(config, device, STEPS)
    peak = torch.cuda.max_memory_allocated(device)
    kernel, why = attention_kernel(
        config.model, config.compute, config.train.batch_size, device, DTYPES[precision]  # type: ignore[index]
    )  # fmt: skip
    difference = max(abs(a - b) for a, b in zip(result["losses"], reference, strict=False))
    return {
        "preset": preset,
        "precision": precision,
        "attention": attention,
        **result,
        "difference_from_cpu": difference,
        "agrees": difference <= TOLERANCE[precision],
        "peak_bytes": peak,
        "fits_16_gb": peak < SIXTEEN_GB,
        "kernel": kernel,
        "kernel_reason": why,
        "flops_per_token": training_flops_per_token(config.model),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This needs an NVIDIA GPU that PyTorch sees; none is here, so nothing was measured.")
    torch.set_float32_matmul_precision("highest")
    device = torch.device("cuda")
    rows = []
    for preset, steps in CPU_STEPS.items():
        reference = losses(changed(PRESETS[preset], precision="fp32", drop_rate=0.0), torch.device("cpu"), steps)
        for precision in DTYPES:
            for attention in ("sdpa", "manual"):
                rows.append(measure(preset, precision, attention, reference["losses"], device))
                row = rows[-1]
                print(
                    f"{preset} {precision} {attention}: {row['kernel']}, {row['peak_bytes'] / 2**30:.2f} GiB, "
                    f"{row['tokens_per_second']:,.0f} tokens/s, differs {row['difference_from_cpu']:.1e}",
                    flush=True,
                )
    measured = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
    }
    RESULT.write_text(json.dumps({"measured": measured, "runs": rows}, indent=2) + "\n")
    wrong = [row for row in rows if not (row["agrees"] and row["fits_16_gb"])]
    raise SystemExit(f"{len(wrong)} of {len(rows)} disagree or need more than 16 GB" if wrong else 0)


if __name__ == "__main__":
    main()
