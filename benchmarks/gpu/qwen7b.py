"""The lab's reference for a large model: Qwen2.5-7B tuned in 4 bits, compared with its base, and probed.

    make qwen7b                       hub and a GPU of 16 GB needed; an hour or so
    make qwen7b ARGS="--steps 20"

Each part is a command that anybody can type (`lab finetune`, `lab compare`, `lab probe`); what they answer is stored in
benchmarks/results/qwen7b.json. A test runs the same path on the same shape at two layers with random weights.
"""

import argparse
import contextlib
import io
import json
from typing import Any

from benchmarks.results import store
from lab.cli import main as lab

TEXT = "Which tool sweeps the floor? A broom sweeps the floor, and the floor is clean again."


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="qwen2.5-7b")
    options.add_argument("--steps", type=int, default=100)
    args = options.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA GPU here: nothing was started.")
    if lab(["models", "pull", args.model]) != 0:
        raise SystemExit(1)
    store("qwen7b", study(args.model, "--max-steps", str(args.steps), "--optimizer", "paged_adamw_8bit"))


def study(model: str, *settings: str, examples: int = 600) -> dict[str, Any]:
    """Fine-tune, compare, probe.

    Args:
        settings: further flags of `lab finetune`.
        examples: of the probes.
    """
    tuned = _asked("finetune", "--model", model, "--method", "qlora", "--dataset", "pirate",
                   "--gradient-checkpointing", "--sample-tokens", "40", *settings)  # fmt: skip
    run = tuned["run_id"]
    compared = _asked("compare", "--tuned", run, "--text", TEXT)
    probed = {name: _asked("probe", "--model", name, "--property", "position", "--examples", str(examples))
              for name in (model, run)}  # fmt: skip
    return {
        "model": model,
        "settings": list(settings),
        "finetune": {key: tuned[key] for key in ("run_id", "status", "steps", "val_loss")},
        "compare": {key: compared[key] for key in ("largest_head_difference_bits", "kl_nats", "loss")},
        "probe": {name: [row["value"] for row in found["rows"]] for name, found in probed.items()},
    }


def _asked(*command: str) -> dict[str, Any]:
    """The JSON document of a `lab` command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = lab([*command, "--json"])
    if code != 0:
        raise SystemExit(code)
    return json.loads(said.getvalue())


if __name__ == "__main__":
    main()
