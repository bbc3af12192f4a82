"""The memory of pretraining steps: what others say, what our forecast says, and what the allocator handed out.

    python -m benchmarks.memory

On this CPU, in fp32: `accelerate estimate-memory` (its own functions), our forecast for a CPU, two real steps under the
allocator events of PyTorch's profiler, and our tracker on a real step. Writes benchmarks/results/memory.json, and
prints the rows of the table in docs/memory.md.
"""

import gc
import json
import os
from typing import Any

from benchmarks.results import store

CASES = (("pocket", 65, 12), ("nano", 50_257, 4), ("nano", 50_257, 16), ("small", 50_257, 4))
GIB = 2**30


def measure(preset: str, vocabulary: int, batch: int) -> dict[str, Any]:
    import torch
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes

    from lab.config import PRESETS, changed
    from lab.forecast.memory import forecast
    from lab.forecast.tracked import tracked
    from lab.models.gpt import GPTModel
    from tests.forecast.reference import real_step_peak, real_trainer

    config = changed(
        PRESETS[preset], vocab_size=vocabulary, batch_size=batch, precision="fp32", device="cpu", threads=2
    )
    with torch.device("meta"):
        size, _ = calculate_maximum_sizes(GPTModel(config.model))
    said = forecast(config, "cpu")
    step = max(said.phases[phase].bytes for phase in ("forward", "backward", "update"))
    trainer = real_trainer(config)
    trainer.task.model.train()
    with tracked(trainer) as followed:
        trainer._step()
    del trainer
    gc.collect()
    allocated = real_step_peak(config)
    gc.collect()
    return {
        "preset": preset,
        "batch_size": batch,
        "context_length": config.model.context_length,
        "accelerate_bytes": max(estimate_training_usage(size, "float32").values()),
        "forecast_bytes": step,
        "tracked_bytes": followed.peak_bytes,
        "allocator_bytes": allocated,
        "error_percent": round(100 * (step - allocated) / allocated, 4),
    }


def main() -> None:
    rows = [measure(*case) for case in CASES]
    print(json.dumps(rows, indent=2))
    for row in rows:
        figures = (row[f"{name}_bytes"] / GIB for name in ("accelerate", "forecast", "tracked", "allocator"))
        name = f"{row['preset']}, {row['batch_size']} × {row['context_length']:,}"
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + f" | {row['error_percent']:.3f} % |")
    store("memory", {"rows": rows, "load_average": round(os.getloadavg()[0], 1)})


if __name__ == "__main__":
    main()
