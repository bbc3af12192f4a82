"""Capture against TransformerLens' run_with_cache for the same tensors: time and memory, on smollm2-135m.

    python -m benchmarks.capture [--tokens 256] [--rounds 7]

Both sides read the same text in the same fp32 weights, in turn, so that a busy moment of the machine hits both. Memory
is what PyTorch's allocator hands out beyond the weights, at its peak (torch.profiler), logits included.
"""

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.results import store
from lab.analysis.capture import THREE_POINTS, capture
from lab.data.corpora import find_corpus, read_text
from lab.models.families import anatomy
from lab.models.pretrained import load_pretrained, quiet_transformers
from lab.models.pull import plan_pull, pull
from lab.models.registry import find_model
from lab.sessions.hf_tokenizer import HFTokenizer

POINTS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "attn.hook_pattern")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=256)
    options.add_argument("--rounds", type=int, default=7)
    args = options.parse_args()
    torch.set_num_threads(1)

    entry = find_model("smollm2-135m")
    folder = entry.folder or pull(plan_pull(entry))
    ids = torch.tensor([HFTokenizer(folder).encode(read_text(find_corpus("alice")))[: args.tokens]])
    parts = anatomy(load_pretrained(folder))
    reference = _transformer_lens(str(folder))
    wanted = {f"blocks.{layer}.{point}" for layer in range(parts.n_layers) for point in POINTS}

    def ours() -> Any:
        found = capture(parts, ids, points=THREE_POINTS)
        assert found.check.ok, found.check.sentence
        return found

    @torch.no_grad()
    def theirs() -> Any:
        return reference.run_with_cache(ids, names_filter=lambda name: name in wanted)

    def summary() -> Any:
        return capture(parts, ids, points=THREE_POINTS, keep="summary", logits="last")

    @torch.no_grad()
    def forward() -> Any:
        return parts(ids)

    sides: dict[str, Callable[[], Any]] = {
        "capture": ours, "transformer_lens": theirs, "summary": summary, "forward_only": forward
    }  # fmt: skip
    seconds = _in_turn(sides, args.rounds)
    peaks = {name: _peak_bytes(run) for name, run in sides.items()}
    pairs = [
        theirs_s / ours_s for theirs_s, ours_s in zip(seconds["transformer_lens"], seconds["capture"], strict=True)
    ]
    figures = {
        "model": entry.name,
        "tokens": ids.shape[1],
        "rounds": args.rounds,
        "median_s": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "peak_mb_beyond_weights": {name: round(peak / 1e6, 1) for name, peak in peaks.items()},
        "speed_against_transformer_lens": round(statistics.median(pairs), 3),
        "memory_against_transformer_lens": round(peaks["capture"] / peaks["transformer_lens"], 3),
        "summary_memory_against_transformer_lens": round(peaks["summary"] / peaks["transformer_lens"], 3),
        "wanted": {"speed": ">= 1.0", "memory": "<= 1.05", "summary_memory": "<= 0.6"},
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    store("capture", figures)


def _in_turn(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round; a first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        order = list(sides) if turn % 2 else list(reversed(sides))
        for name in order:
            gc.collect()
            started = time.perf_counter()
            kept = sides[name]()
            seconds[name].append(time.perf_counter() - started)
            del kept
    return {name: values[1:] for name, values in seconds.items()}


def _peak_bytes(run: Callable[[], Any]) -> int:
    """The most that was allocated at once while it ran and its result was held."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        kept = run()
    held = peak = 0
    for event in _memory_events(recording):
        held += event
        peak = max(peak, held)
    del kept
    return peak


def _memory_events(recording: Any) -> list[int]:
    """Bytes of each allocation (positive) and release (negative), in order."""
    kineto = recording.profiler.kineto_results.events()
    events = [(event.start_ns(), event.nbytes()) for event in kineto if event.name() == "[memory]"]
    return [count for _, count in sorted(events, key=lambda event: event[0])]


def _transformer_lens(folder: str) -> Any:
    with warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)


if __name__ == "__main__":
    main()
