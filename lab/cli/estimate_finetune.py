"""`lab estimate --model …`: the memory of a fine-tuning, before it starts. No weights are loaded."""

import argparse
from typing import TYPE_CHECKING, Any

from lab.cli.flags import given
from lab.cli.output import Outcome, facts, progress_line
from lab.config import FineTuneConfig, build_finetune, flat

if TYPE_CHECKING:
    from lab.forecast.finetune_config import FineTuneNeed


def is_asked(args: argparse.Namespace) -> bool:
    """Whether a fine-tuning is meant: a model is named, or a fine-tuning run to be like."""
    if "model" in vars(args):
        return True
    if not args.like:
        return False
    from lab.rundir import find_run

    return isinstance(find_run(args.like).config(), FineTuneConfig)


def estimate(args: argparse.Namespace) -> Outcome:
    """
    Raises:
        LabError: settings that cannot work, or a model that is not here.
    """
    from lab.rundir import find_run

    layers: list[dict[str, Any]] = [flat(find_run(args.like).config_as(FineTuneConfig))] if args.like else []
    config = build_finetune(*layers, given(args, FineTuneConfig))
    progress_line("Replaying a training step without memory …")
    from lab.forecast.budget import gpu_budget, this_device
    from lab.forecast.finetune_config import finetune_need

    device = "cuda" if config.compute.device == "cuda" else "cpu"
    need = finetune_need(config, device)  # type: ignore[arg-type]
    budget = gpu_budget(args.budget_gib or 16.0) if device == "cuda" else this_device("cpu")
    verdict = need.verdict(budget)
    document = {
        "memory": {
            "peak_bytes": need.peak_bytes,
            "total_bytes": need.total_bytes,
            "device": device,
            "peak": {"phase": need.peak.phase, "layer": need.peak.layer, "line": need.peak.line},
            "breakdown": {kind: size for kind, size in need.kinds.items() if size},
            "phases": {name: moment.bytes for name, moment in need.phases.items()},
            "checkpoint_bytes": need.checkpoint_bytes,
            "modelled": {part.name: part.bytes for part in need.modelled},
            "verdicts": [
                {
                    "budget": budget.name,
                    "limit_bytes": budget.limit_bytes,
                    "colour": verdict.colour,
                    "margin_bytes": verdict.margin_bytes,
                }
            ],
            "notes": list(need.notes),
        },
        "time_s": None,
        "loss": None,
        "config": flat(config),
    }
    return Outcome(document, "\n".join([_text(need), "", verdict.sentence, *need.notes]))


def _text(need: "FineTuneNeed") -> str:
    from lab.training.memory import gib

    pairs = {"peak of tensors": f"{gib(need.peak_bytes)}, {need.peak.sentence}, rows of {need.extent.tokens:,} tokens"}
    for kind, size in sorted(need.kinds.items(), key=lambda item: -item[1]):
        if size:
            pairs[f"  {kind.replace('_', ' ')}"] = gib(size)
    if need.checkpoint_bytes:
        pairs["copy for a checkpoint"] = gib(need.checkpoint_bytes)
    for part in need.modelled:
        pairs[f"modelled: {part.name}"] = gib(part.bytes)
    pairs["in all"] = gib(need.total_bytes)
    return facts(pairs)
