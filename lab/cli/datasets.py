"""`lab datasets`: what can be learnt from in a fine-tuning."""

import argparse

from lab.cli.commands import Commands
from lab.cli.output import Outcome, facts, human_bytes, progress_line, table


def add(commands: Commands) -> None:
    group = commands.group("datasets", "Data sets for fine-tuning: list, add, pull from the hub, look at one.")
    group.add("list", list_all, "List the data sets that can be named.")
    parser = group.add("add", add_file, "Keep a file of yours under its name.")
    parser.add_argument("file", metavar="FILE", help="jsonl, json, csv or parquet")
    parser = group.add("pull", pull, "Fetch a data set of the hub.")
    parser.add_argument("hub_id", metavar="OWNER/NAME")
    parser = group.add("show", show, "Show what a model would see of a data set, and what is wrong with it.")
    parser.add_argument("dataset", metavar="DATASET", help="a name, a file, or OWNER/NAME after `lab datasets pull`")
    parser.add_argument("--model", default="smollm2-135m", metavar="M", help="whose tokens (default smollm2-135m)")
    parser.add_argument("--columns", nargs="*", default=[], metavar="TEXT", help="pairs such as prompt=question")
    parser.add_argument("--max-length", type=int, default=256, metavar="N", help="tokens of a row (default 256)")


def list_all(args: argparse.Namespace) -> Outcome:
    from lab.finetuning.rows import BUNDLED, dataset_names

    known = {one.name: one for one in BUNDLED}
    rows = [{"name": name, "about": known[name].description if name in known else "yours"} for name in dataset_names()]
    return Outcome(rows, table(rows, {"name": "data set", "about": "what it is"}))


def add_file(args: argparse.Namespace) -> Outcome:
    from pathlib import Path

    from lab.data.own_texts import read_bytes
    from lab.finetuning.rows import add_dataset

    path = Path(args.file)
    name = add_dataset(path.name, read_bytes(path))
    return Outcome({"name": name}, f"Kept as {name}.")


def pull(args: argparse.Namespace) -> Outcome:
    from lab.finetuning import hub_data
    from lab.finetuning.rows import read_dataset

    _, files = hub_data.plan(args.hub_id)
    progress_line(f"{args.hub_id}: {human_bytes(sum(file.bytes for file in files))} in {len(files)} files …")
    folder = hub_data.pull(args.hub_id)
    count = len(read_dataset(args.hub_id))
    document = {"name": args.hub_id, "folder": str(folder), "rows": count}
    return Outcome(document, f"{args.hub_id} is here with {count:,} rows. Mind its licence: its page on the hub says.")


def show(args: argparse.Namespace) -> Outcome:
    from lab.config import FineTuneConfig, changed
    from lab.finetuning.base import find_base
    from lab.finetuning.datasets import divided, look

    config = changed(
        FineTuneConfig(),
        model=args.model,
        dataset=args.dataset,
        columns=tuple(args.columns),
        max_length=args.max_length,
    )
    tokenizer = find_base(args.model).tokenizer
    seen = look(config, tokenizer)
    if seen.mistakes:
        return Outcome({"mistakes": seen.mistakes}, "\n".join(seen.mistakes), code=1)
    report = divided(seen).report.to_json()
    first = seen.examples[0]
    marked = "".join(
        f"[{tokenizer.label(token)}]" if is_learnt else tokenizer.label(token)
        for token, is_learnt in zip(first.ids, first.learn, strict=True)
    )
    text = f"{facts(report)}\n\nThe first row, what is learnt in brackets:\n{marked}"
    return Outcome({**report, "mistakes": [], "first_row": marked}, text)
