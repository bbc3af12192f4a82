"""`lab export`: a fine-tuned model for other programs, with proof."""

import argparse

from lab.cli.commands import Commands
from lab.cli.output import Outcome, facts, human_bytes, progress_line

FORMATS = {"adapter": "adapter", "safetensors": "adapter", "merged": "merged", "gguf": "gguf"}


def add(commands: Commands) -> None:
    parser = commands.add(
        "export", export, "Write a fine-tuned model for other programs, load it again, and compare it with the run."
    )
    parser.add_argument("run_text", metavar="RUN", help="id or name of a fine-tuning run")
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        default="adapter",
        help="adapter (or safetensors): what was learnt, for peft. merged: base and adapter as one model, for "
        "transformers. gguf: one file for llama.cpp, Llama family only (default adapter)",
    )
    parser.add_argument("--step", type=int, metavar="S", help="which checkpoint; the newest when left out")
    parser.add_argument(
        "--numbers",
        choices=["fp32", "bf16", "f16", "q8_0"],
        help="number format in the file: merged bf16 or fp32, gguf f16 or q8_0 (default: the first)",
    )
    parser.add_argument(
        "--into",
        choices=["trained", "original"],
        default="trained",
        help="of a training beside 4 or 8 bits: add the adapter to those coarse weights, or to the original ones",
    )


def export(args: argparse.Namespace) -> Outcome:
    from lab.finetuning.export import export_run
    from lab.rundir import find_run

    made = export_run(
        find_run(args.run_text),
        FORMATS[args.format],  # type: ignore[arg-type]
        step=args.step,
        numbers=args.numbers,
        into=args.into,
        tell=lambda what: progress_line(f"{what} …"),
    )
    certificate = made.certificate
    text = facts(
        {
            "folder": str(made.folder),
            "size": human_bytes(made.bytes),
            "step": certificate["step"],
            "compared with": certificate["reference"],
            **({"merged into": certificate["merged_into"]} if certificate["merged_into"] else {}),
        }
    )
    return Outcome(
        {"folder": str(made.folder), "bytes": made.bytes, "certificate": certificate},
        f"{text}\n\n{certificate['sentence']}",
    )
