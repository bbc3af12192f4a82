"""`lab estimate`: what a run would need, before it starts. No model is built and no text is tokenized."""

import argparse
import math
from typing import Any

from lab.cli import estimate_finetune
from lab.cli.commands import Commands
from lab.cli.flags import add_config_flags, given
from lab.cli.output import Outcome, facts, human_seconds, progress_line
from lab.config import PRESETS, FineTuneConfig, PretrainConfig, build_pretrain, changed, default_preset, flat

EPILOG = """examples:
  lab estimate --preset medium --device cuda --batch-size 16      for a GPU of 16 GB, also where there is none
  lab estimate --preset medium --device cuda --budget-gib 8 --fit  and settings that fit in 8 GiB
  lab estimate --model smollm2-135m --method qlora --max-length 1024 --device cuda    a fine-tuning
  lab estimate --like RUN --n-layers 24 --json"""


def add(commands: Commands) -> None:
    parser = commands.add("estimate", estimate, "Memory and time of a run, before it starts.", epilog=EPILOG)
    parser.add_argument("--preset", choices=list(PRESETS), help="a ready-made run to start from")
    parser.add_argument("--like", metavar="RUN", help="take the settings of this run")
    parser.add_argument(
        "--budget-gib", type=float, metavar="GIB", help="judge against a GPU of this size; 16 when left out"
    )
    parser.add_argument("--fit", action="store_true", help="also look for the settings nearest to these that fit")
    parser.add_argument("--savings", action="store_true", help="also say what each knob alone would save")
    add_config_flags(parser, PretrainConfig, FineTuneConfig)


def estimate(args: argparse.Namespace) -> Outcome:
    if estimate_finetune.is_asked(args):
        return estimate_finetune.estimate(args)
    config = _config(args)
    progress_line("Replaying a training step without memory …")
    from lab.forecast.budget import gpu_budget, this_device
    from lab.forecast.fit import fit, savings
    from lab.forecast.memory import device_of, forecast

    device = "cuda" if config.compute.device == "cuda" else device_of(config)
    found = forecast(config, device)
    budgets = {"16 GB": gpu_budget(args.budget_gib or 16.0)} if device == "cuda" else {}
    if args.budget_gib and device == "cpu":
        from lab.forecast.budget import Budget

        budgets["given"] = Budget(f"{args.budget_gib:g} GiB", "cpu", round(args.budget_gib * 2**30))
    if device == "cpu" or _has_gpu():
        budgets["this device"] = this_device(device)
    verdicts = [found.verdict(budget) for budget in budgets.values()]
    time_s = _time(config, device)
    memory = found.document()
    memory["verdicts"] = [
        {
            "budget": v.budget.name,
            "limit_bytes": v.budget.limit_bytes,
            "colour": v.colour,
            "margin_bytes": v.margin_bytes,
        }
        for v in verdicts
    ]
    document: dict[str, Any] = {
        "memory": memory,
        "time_s": time_s,
        "loss": {"first": math.log(config.model.vocab_size)},
        "config": flat(config),
    }
    lines = [_text(found, verdicts, time_s)]
    if args.savings:
        saved = savings(found.config, device)
        document["savings"] = [
            {"knob": s.knob, "value": s.value, "saves_bytes": s.saves_bytes, "slowdown": s.slowdown} for s in saved
        ]
        lines += ["", "One knob alone:", *(f"  {s.sentence}" for s in saved)]
    if args.fit:
        budget = next(iter(budgets.values()))
        options = fit(found.config, budget)
        document["fit"] = [
            {"changes": o.changes, "peak_bytes": o.peak_bytes, "margin_bytes": o.margin_bytes, "slowdown": o.slowdown}
            for o in options
        ]
        lines += ["", f"In {budget.name}:", *(f"  {o.sentence}" for o in options)]
        if not options:
            lines.append("  nothing fits, even with every saving: take a smaller model.")
    return Outcome(document, "\n".join(lines))


def _config(args: argparse.Namespace) -> PretrainConfig:
    layers: list[dict[str, Any]] = []
    if args.preset or not args.like:
        layers.append(flat(PRESETS[args.preset or default_preset(_has_gpu())]))
    if args.like:
        from lab.rundir import find_run

        layers.append(flat(find_run(args.like).config_as(PretrainConfig)))
    config = build_pretrain(*layers, given(args, PretrainConfig, FineTuneConfig))
    return changed(config, vocab_size=_vocabulary(config))


def _vocabulary(config: PretrainConfig) -> int:
    """As the tokenizer would have it."""
    if config.data.tokenizer == "gpt2":
        return 50_257
    from lab.data.corpora import find_corpus, read_text

    return len(set(read_text(find_corpus(config.data.corpus))))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _time(config: PretrainConfig, device: str) -> float | None:
    """Seconds, on this machine; None where that cannot be said, such as for a GPU that is not here."""
    if device == "cuda" and not _has_gpu():
        return None
    import torch

    from lab.forecast.pace import time_forecast
    from lab.training import machine
    from lab.training.precision import Precision, PrecisionName

    precision: PrecisionName = "bf16" if config.compute.precision == "bf16" else "fp32"
    peak = machine.matmul_peak(Precision(precision, torch.device(device)), config.compute.threads or 1)
    return time_forecast(config, device, peak, config.train.max_steps).seconds


def _text(found: Any, verdicts: list[Any], time_s: float | None) -> str:
    def gib(size: int) -> str:
        return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"

    pairs = {"peak of tensors": f"{gib(found.peak_bytes)}, {found.peak.sentence}"}
    for kind, size in sorted(found.peak.kinds.items(), key=lambda item: -item[1]):
        if size:
            pairs[f"  {kind.replace('_', ' ')}"] = gib(size)
    if found.checkpoint_bytes:
        pairs["copy for a checkpoint"] = gib(found.checkpoint_bytes)
    for part in found.modelled:
        pairs[f"modelled: {part.name}"] = gib(part.bytes)
    pairs["in all"] = gib(found.total_bytes)
    if time_s is not None:
        pairs["time, roughly"] = human_seconds(time_s)
    return "\n".join([facts(pairs), "", *(verdict.sentence for verdict in verdicts), *found.notes])
