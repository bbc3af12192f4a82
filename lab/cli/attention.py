"""`lab attention`: what the heads of a model do while it reads a text."""

import argparse
from pathlib import Path
from typing import Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome


def add(commands: Commands) -> None:
    parser = commands.add("attention", attention, "Let a model read a text and say what each of its heads looks at.")
    parser.add_argument("--model", required=True, metavar="M", help="a run, RUN@STEP, a model's name, folder or hub id")
    parser.add_argument("--text", required=True, metavar="TEXT", help="what the model reads")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "8bit", "4bit"))
    parser.add_argument("--layer", type=int, metavar="L", help="also print one head's weights: its layer, from 0")
    parser.add_argument("--head", type=int, metavar="H", help="and its number, from 0")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="heads listed of each kind (default 5)")
    parser.add_argument("--store", type=Path, metavar="FILE", help="keep the whole capture in this safetensors file")


def attention(args: argparse.Namespace) -> Outcome:
    from lab.analysis.heads import head_stats
    from lab.analysis.stored import save_capture
    from lab.errors import ModelError
    from lab.sessions import open_session

    session = open_session(args.model, precision=args.precision)
    found = session.capture(args.text)
    if not found.check.ok:
        raise ModelError(found.check.sentence)
    tokens = [session.tokenizer.label(int(token)) for token in found.ids[0]]
    if args.store is not None:
        about = {"model": session.ref, "title": session.name, "precision": session.precision}
        save_capture(found, args.store, about={**about, "text": args.text, "tokens": tokens})
    stats = head_stats(found.attention, found.ids, windows=found.windows)
    heads = [
        {"layer": layer, "head": head, **{name: float(values[layer, head]) for name, values in stats.items()}}
        for layer in range(found.n_layers)
        for head in range(session.anatomy.n_heads)
    ]
    document: dict[str, Any] = {
        "model": session.ref,
        "precision": session.precision,
        "tokens": tokens,
        "check": {"ok": found.check.ok, "sentence": found.check.sentence, "checks": found.check.to_json()},
        "heads": heads,
    }
    text = [f"{len(tokens)} tokens: {'|'.join(tokens)}", found.check.sentence]
    for name in stats:
        known = [row for row in heads if row[name] == row[name]]  # NaN: the text has nothing to judge by
        best = sorted(known, key=lambda row: -row[name])[: args.top]
        if best:
            listed = "  ".join(f"{row['layer']}.{row['head']} {row[name]:.2f}" for row in best)
            text.append(f"{name.replace('_', ' ')}, highest (layer.head): {listed}")
    if args.layer is not None and args.head is not None:
        _check_head(args.layer, args.head, found.n_layers, session.anatomy.n_heads)
        weights = found.pattern(args.layer, args.head)[0].float()
        document["weights"] = weights.tolist()
        rows = [
            {"token": tokens[query], "looks at": "  ".join(
                f"{tokens[key]} {weight:.2f}" for weight, key in zip(*_strongest(weights[query]), strict=True)
            )}
            for query in range(len(tokens))
        ]  # fmt: skip
        text.append(output.table(rows))
    return Outcome(document, "\n\n".join(text))


def _strongest(row: Any) -> tuple[list[float], list[int]]:
    values, places = row.topk(min(3, len(row)))
    return values.tolist(), places.tolist()


def _check_head(layer: int, head: int, n_layers: int, n_heads: int) -> None:
    from lab.errors import ModelError

    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise ModelError(
            f"There is no head {head} in layer {layer}: layers are 0 to {n_layers - 1}, heads 0 to {n_heads - 1}."
        )
