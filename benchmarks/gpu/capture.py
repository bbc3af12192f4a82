"""Capture on a GPU: error, time and memory in bf16 and 4 bits. Needs torch and transformers; 4 bits bitsandbytes too.

    PYTHONPATH=. python benchmarks/gpu/capture.py [--folder FOLDER of smollm2-135m] [--layers 28]

Two models: smollm2-135m where its folder is given, and the shape of Qwen2.5-7B with random weights (nothing to fetch).
"""

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from lab.analysis.capture import THREE_POINTS, capture, predicted_bytes
from lab.analysis.model_check import check_model
from lab.models.families import anatomy
from lab.models.pretrained import load_pretrained

RESULTS = Path(__file__).parent.parent / "results" / "gpu_capture.json"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, help="of smollm2-135m, as `lab models pull` leaves it")
    options.add_argument("--layers", type=int, default=28, help="of the large shape; 28 are those of Qwen2.5-7B")
    options.add_argument("--tokens", type=int, default=512)
    options.add_argument("--out", type=Path, default=RESULTS)
    args = options.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device: run this where there is one.")
    measured = []
    if args.folder:
        for precision in ("fp32", "bf16", "4bit"):
            model = load_pretrained(args.folder, precision, device="cuda")
            measured.append(_measure("smollm2-135m", precision, model, args.tokens))
            del model
    for precision in ("bf16", "4bit"):
        torch.cuda.empty_cache()
        model = _large(precision, args.layers)
        measured.append(_measure(f"Qwen2.5-7B shape, {args.layers} layers, random", precision, model, args.tokens))
        del model
    document = {
        "measured": {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": torch.cuda.get_device_name(),
            "python": platform.python_version(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        },
        "captures": measured,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"stored in {args.out}")


def _large(precision: str, layers: int) -> nn.Module:
    """Random weights straight on the GPU, of the size that training starts with."""
    config = transformers.Qwen2Config(
        vocab_size=152_064, hidden_size=3_584, intermediate_size=18_944, num_hidden_layers=layers,
        num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=32_768, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    if precision == "4bit":
        _to_4bit(model)
    return model.eval()


def _to_4bit(model: nn.Module) -> None:
    """Replace the linear layers inside the blocks, as loading in 4 bits does."""
    import bitsandbytes as bnb

    for module in list(model.model.layers.modules()):  # type: ignore[union-attr]
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                small = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=child.bias is not None, quant_type="nf4",
                    compute_dtype=torch.bfloat16, compress_statistics=True,
                )  # fmt: skip
                small.weight = bnb.nn.Params4bit(
                    child.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                small.bias = child.bias
                setattr(module, name, small.to("cuda"))


def _measure(name: str, precision: str, model: nn.Module, tokens: int) -> dict[str, Any]:
    parts = anatomy(model)
    opened = check_model(parts)
    drawn = torch.randint(0, parts.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    ids = drawn.to(parts.device)
    runs: dict[str, Any] = {}
    for mode, options in {"all": {}, "summary": {"keep": "summary", "logits": "last"}}.items():
        seconds = []
        for _ in range(4):  # the first warms up
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, started = torch.cuda.memory_allocated(), time.perf_counter()
            found = capture(parts, ids, points=THREE_POINTS, **options)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            peak = torch.cuda.max_memory_allocated() - before
            checks = {check.name: [check.measured, check.threshold, check.ok] for check in found.check}
            held = found.bytes
            del found
        runs[mode] = {
            "seconds": round(min(seconds[1:]), 4),
            "peak_mib_beyond_weights": round(peak / 2**20, 1),
            "held_mib": round(held / 2**20, 1),
            "predicted_mib": round(predicted_bytes(parts, 1, tokens, points=THREE_POINTS, **options) / 2**20, 1),
            "checks": checks,
        }
    with torch.no_grad():
        torch.cuda.synchronize()
        started = time.perf_counter()
        parts(ids)
        torch.cuda.synchronize()
    figures = {
        "model": name,
        "precision": precision,
        "tokens": tokens,
        "weights_gib": round(sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30, 2),
        "passes_the_check_at_opening": opened.ok,
        "forward_only_s": round(time.perf_counter() - started, 4),
        **runs,
    }
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
