"""`lab probe`: what can be read off each layer of a model."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome

PROPERTIES = ("next", "position", "sentiment", "own")


def add(commands: Commands) -> None:
    parser = commands.add(
        "probe", probe, "Train a linear probe on each layer of a model, beside the controls that it has to beat."
    )
    parser.add_argument("--model", required=True, metavar="M", help="a run, RUN@STEP, a model's name, folder or hub id")
    parser.add_argument("--property", default="next", choices=PROPERTIES, help=_PROPERTY)
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="for own: a CSV file with the columns text and label"
    )
    parser.add_argument("--kind", default="ridge", choices=("ridge", "logistic"), help="logistic: stronger, far slower")
    parser.add_argument("--examples", type=int, default=1_500, metavar="N", help="at most (default 1500)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "8bit", "4bit"))


_PROPERTY = (
    "next: class of the next character; position: quarter of the text; sentiment: good or bad word in the sentence; "
    "own: labels from a CSV file (default next)"
)


def probe(args: argparse.Namespace) -> Outcome:
    from lab.analysis.probes import DECODABLE_IS_NOT_USED
    from lab.sessions import open_session
    from lab.sessions.probing import PROPERTIES as SAID
    from lab.sessions.probing import probe as run_probe

    content = _labels(args)
    session = open_session(args.model, precision=args.precision)
    task, report = run_probe(session, args.property, kind=args.kind, content=content, examples=args.examples)
    names = ["embedding", *(f"after {layer}" for layer in range(len(report.rows) - 1))]
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        row: dict[str, Any] = {"row": name, **{k: v for k, v in asdict(report.rows[number]).items() if k != "n"}}
        row["shuffled"] = report.shuffled[number].value
        if report.control:
            row["control"] = report.control[number].value
        for baseline, values in report.baselines.items():
            row[baseline] = values[number if len(values) == len(names) else 0].value
        rows.append(row)
    document = {
        "model": session.ref,
        "precision": session.precision,
        "property": args.property,
        "kind": args.kind,
        "classes": list(task.names),
        "n_train": report.n_train,
        "n_test": report.rows[0].n,
        "majority": report.majority,
        "rows": rows,
        "note": DECODABLE_IS_NOT_USED,
    }
    said = (
        f"{SAID[args.property]}: {len(task.names)} classes ({', '.join(task.names)}); {report.n_train:,} examples to "
        f"train, {report.rows[0].n:,} held out. Always the commonest class: {report.majority:.3f}."
    )
    columns = {key: "accuracy" if key == "value" else key for key in rows[0]}
    return Outcome(document, "\n\n".join([said, output.table(rows, columns), DECODABLE_IS_NOT_USED]))


def _labels(args: argparse.Namespace) -> bytes:
    from lab.errors import DataError

    if args.property != "own":
        return b""
    if args.labels is None:
        raise DataError("--property own needs --labels FILE, a CSV file with the columns text and label.")
    try:
        return bytes(args.labels.read_bytes())
    except OSError as error:
        raise DataError(f"{args.labels} cannot be read: {error.strerror}; name a CSV file.") from error
