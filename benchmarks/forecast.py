"""How soon a memory forecast is there, and what it costs a run at its start.

    python -m benchmarks.forecast [--repeats 5]

First answer: a new Python process, from its start until the forecast is known, importing all it needs. A knob: one
setting changed after that, in the same process, each asked for the first time; then one of a config whose neighbours
were replayed, to one of them, and to a value between them. A run's start: what `train_run` spends
on its forecast, and how much longer its first step takes because it is followed. Writes
benchmarks/results/forecast.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import store

FIRST = """
import json, sys, time
from lab.config import PRESETS, changed
from lab.forecast.memory import forecast
imported = time.time()
config = changed(PRESETS[sys.argv[1]], vocab_size=int(sys.argv[2]), precision=sys.argv[3])
found = forecast(config, sys.argv[4])
print(json.dumps({"imported": imported, "at": time.time(), "peak_bytes": found.peak_bytes}))
"""
CASES = {
    "pocket, fp32, cpu": ("pocket", "65", "fp32", "cpu"),
    "nano, fp32, cpu": ("nano", "50257", "fp32", "cpu"),
    "medium, bf16, cuda": ("medium", "50257", "bf16", "cuda"),
}
KNOBS: dict[str, Any] = {
    "batch_size": (8, 16, 24, 32, 48, 64),
    "n_layers": (4, 6, 8, 12, 16, 24),
    "context_length": (128, 256, 384, 512),
    "emb_dim": (192, 384, 768),
    "n_heads": (2, 4, 16),
    "grad_accum_steps": (2, 4),
    "precision": ("bf16",),
    "attention_impl": ("manual", "sdpa"),
    "gradient_checkpointing": (True,),
    "tie_embeddings": (False, True),
    "optimizer": ("adamw_8bit",),
    "drop_rate": (0.0, 0.1),
    "eval_tokens": (20_000,),
    "learning_rate": (1e-3,),
}


BETWEEN = {
    "emb_dim": (240, 300, 480, 600),
    "context_length": (160, 200, 320, 400),
    "n_heads": (2, 4, 8),
}
"""Values that nobody replayed, of a config whose neighbours were."""


def first_answers(repeats: int) -> dict[str, Any]:
    """Seconds from the start of a process, by config."""
    found = {}
    for name, words in CASES.items():
        seconds, imports = [], []
        for _ in range(repeats):
            started = time.time()
            said = subprocess.run([sys.executable, "-c", FIRST, *words], capture_output=True, text=True, check=True)
            answer = json.loads(said.stdout.splitlines()[-1])
            seconds.append(answer["at"] - started)
            imports.append(answer["imported"] - started)
        found[name] = {
            "median_s": round(statistics.median(seconds), 2),
            "max_s": round(max(seconds), 2),
            "of_it_imports_s": round(statistics.median(imports), 2),
        }
    return found


def knobs() -> dict[str, Any]:
    """Milliseconds of each single change of `nano`, the first time it is asked for, and again."""
    from lab.config import PRESETS, changed
    from lab.forecast.ahead import neighbours, warm
    from lab.forecast.memory import forecast
    from lab.forecast.patience import GivenUpError, without_replays

    base = changed(PRESETS["nano"], vocab_size=50_257, precision="fp32")
    forecast(base, "cuda")
    asked, by_knob, again = [], {}, []
    for knob, values in KNOBS.items():
        times = []
        for value in values:
            config = changed(base, **{knob: value})
            for into in (times, again):
                started = time.perf_counter()
                forecast(config, "cuda")
                into.append((time.perf_counter() - started) * 1e3)
        by_knob[knob] = round(max(times), 1)
        asked += times
    looked_at = changed(base, emb_dim=384, n_heads=6)
    started = time.perf_counter()
    warmed = warm(looked_at, ["cpu", "cuda"])
    warming_s = time.perf_counter() - started
    next_ms = {}
    for values in (
        *neighbours(looked_at),
        {"batch_size": 8},
        {"batch_size": 64},
        {"n_layers": 24},
        {"eval_tokens": 9_000},
    ):
        if "emb_dim" in values and values["emb_dim"] % 6:
            continue  # nothing that a form would accept
        near = changed(looked_at, **values)
        started = time.perf_counter()
        for device in ("cpu", "cuda"):
            forecast(near, device)
        next_ms[", ".join(f"{name} {value}" for name, value in values.items() if name != "stride")] = round(
            (time.perf_counter() - started) * 1e3, 1
        )
    between_ms: dict[str, float] = {}
    said: dict[tuple[str, int, str], int] = {}
    not_answered = []
    for knob, values in BETWEEN.items():
        for value in values:
            near = changed(looked_at, **{knob: value})
            started = time.perf_counter()
            try:
                with without_replays():
                    for device in ("cpu", "cuda"):
                        said[knob, value, device] = forecast(near, device).peak_bytes
            except GivenUpError:
                not_answered.append(f"{knob} {value}")
                continue
            between_ms[f"{knob} {value}"] = (time.perf_counter() - started) * 1e3
    off = [
        abs(one / forecast(changed(looked_at, **{knob: value}), device).peak_bytes - 1)
        for (knob, value, device), one in said.items()
    ]
    return {
        "changes": len(asked),
        "first_time_ms": {
            "median": round(statistics.median(asked), 1),
            "p95": round(sorted(asked)[int(0.95 * len(asked))], 1),
            "max": round(max(asked), 1),
        },
        "slowest_by_knob_ms": by_knob,
        "again_ms_max": round(max(again), 2),
        "warmed": {
            "neighbours": warmed,
            "seconds_in_the_background": round(warming_s, 2),
            "next_knob_both_devices_ms_max": max(next_ms.values()),
            "next_knob_both_devices_ms": next_ms,
        },
        "between_what_was_warmed": {
            "both_devices_ms_median": round(statistics.median(between_ms.values()), 1),
            "both_devices_ms_max": round(max(between_ms.values()), 1),
            "error_max": round(max(off), 5),
            "not_answered": not_answered,
            "both_devices_ms": {name: round(ms, 1) for name, ms in between_ms.items()},
        },
    }


def start_of_a_run(repeats: int) -> dict[str, Any]:
    """Milliseconds that a run's forecast and a followed step take, per preset; imports apart."""
    from lab.config import PRESETS, changed
    from lab.forecast import lookup
    from lab.forecast.adviser import MemoryAdviser
    from lab.forecast.tracked import tracked
    from tests.forecast.reference import real_trainer

    found = {}
    for name, vocabulary in (("pocket", 65), ("nano", 50_257)):
        config = changed(PRESETS[name], vocab_size=vocabulary, precision="fp32", device="cpu", threads=1)
        foresee, alone, followed = [], [], []
        for _ in range(repeats):
            lookup.forget()
            started = time.perf_counter()
            MemoryAdviser().foresee(config)
            foresee.append((time.perf_counter() - started) * 1e3)
            trainer = real_trainer(config)
            trainer.task.model.train()
            trainer._step()
            started = time.perf_counter()
            trainer._step()
            alone.append((time.perf_counter() - started) * 1e3)
            started = time.perf_counter()
            with tracked(trainer):
                trainer._step()
            followed.append((time.perf_counter() - started) * 1e3)
        found[name] = {
            "forecast_ms": round(statistics.median(foresee)),
            "step_ms": round(statistics.median(alone)),
            "followed_step_ms": round(statistics.median(followed)),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = str(Path(home))
        figures = {
            "first_answer": first_answers(repeats),
            "knob": knobs(),
            "start_of_a_run": start_of_a_run(repeats),
            "load_average": round(os.getloadavg()[0], 1),
        }
    print(json.dumps(figures, indent=2))
    store("forecast", figures)


if __name__ == "__main__":
    main()
