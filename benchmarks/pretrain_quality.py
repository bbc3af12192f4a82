"""Does the trainer train as well as a well-known one, and is `pocket` a good default?

    python -m benchmarks.pretrain_quality                       the two figures of the README's table
    python -m benchmarks.pretrain_quality --only recipe         one of them; the other stays as it was stored
    python -m benchmarks.pretrain_quality --sweep 2e-3 3e-3     learning rates of `pocket`, one seed each

Both train 2,000 steps of 12 × 64 characters of tinyshakespeare, three fixed seeds, and are judged by the loss over
the *whole* validation set. `recipe` has the settings of the laptop recipe of nanoGPT (its README: 1.88 from 20 random
validation batches; the same recipe judged over the whole set, in its own code: 1.893, and re-implemented over three
seeds 1.898, 1.904, 1.924).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import store, stored
from lab.config import PRESETS, PretrainConfig, build_pretrain, flat
from lab.rundir import create_run
from lab.training.run import train_run

SEEDS = (1337, 1338, 1339)
WHOLE_SET = {"eval_tokens": None, "eval_every": 2_000, "max_steps": 2_000, "sample_tokens": 0, "threads": 1}
RECIPE = {
    "learning_rate": 1e-3,
    "min_lr_ratio": 0.1,
    "warmup_steps": 100,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "drop_rate": 0.0,
    "tie_embeddings": True,
    "precision": "fp32",
}


class Silent:
    """A recorder that keeps nothing."""

    def rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


def validation_loss(config: PretrainConfig) -> tuple[float, float]:
    """Nats per token over the whole validation set after training, and the seconds that took."""
    started = time.perf_counter()
    outcome = train_run(create_run(config), Silent())
    assert outcome.val_loss is not None, outcome.error
    return outcome.val_loss, time.perf_counter() - started


def judge(name: str, seeds: Sequence[int], **settings: Any) -> dict[str, Any]:
    losses, seconds = [], []
    for seed in seeds:
        config = build_pretrain(flat(PRESETS["pocket"]), WHOLE_SET, settings, {"seed": seed})
        loss, took = validation_loss(config)
        losses.append(loss)
        seconds.append(took)
        print(f"{name} seed {seed}: {loss:.4f} nats per token in {took:.0f} s", flush=True)
    return {
        "settings": settings,
        "seeds": list(seeds),
        "val_loss": losses,
        "mean": statistics.mean(losses),
        "seconds": [round(s, 1) for s in seconds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", nargs="+", type=float, default=[])
    parser.add_argument("--only", choices=["recipe", "pocket"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further settings of the sweep")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = home
        if args.sweep:
            more = dict(item.split("=", 1) for item in args.set)
            for rate in args.sweep:
                judge(f"pocket {rate:g} {more or ''}", SEEDS[:1], learning_rate=rate, **more)
            return
        settings = {"recipe": RECIPE, "pocket": {}}
        wanted = [args.only] if args.only else list(settings)
        results = {name: judge(name, SEEDS, **settings[name]) for name in wanted}
    store("pretrain_quality", {**stored("pretrain_quality"), **results})
    for name, result in results.items():
        print(f"{name}: mean {result['mean']:.3f}")


if __name__ == "__main__":
    main()
