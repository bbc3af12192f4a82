"""`lab corpora list|add|download|stats`: the texts to learn from."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.data.corpora import Corpus


def add(commands: Commands) -> None:
    group = commands.group("corpora", "The texts to learn from: bundled, downloadable, and your own.")
    group.add("list", list_all, "All corpora with source, licence and size.")
    parser = group.add("add", add_own, "Add a text file of yours (UTF-8) under a name.")
    parser.add_argument("path", type=Path, metavar="FILE")
    parser.add_argument("--name", metavar="NAME", help="the corpus' name; made from the file's name when left out")
    parser = group.add("download", download, "Fetch a corpus that is not bundled; goes on where it was cut.")
    parser.add_argument("name", metavar="NAME")
    parser = group.add("stats", stats, "Size, characters and tokens of a corpus, and its commonest characters.")
    parser.add_argument("name", metavar="NAME", help="a corpus' name, or a path to a text file")


def list_all(args: argparse.Namespace) -> Outcome:
    from lab.data.corpora import list_corpora

    corpora = list_corpora()
    rows = [
        {
            "name": corpus.name,
            "title": corpus.title,
            "size": output.human_bytes(corpus.bytes),
            "characters": corpus.characters,
            "gpt2": corpus.tokens.get("gpt2"),
            "here": "yes" if corpus.is_here else "download",
            "licence": corpus.licence,
        }
        for corpus in corpora
    ]
    return Outcome(
        [_document(corpus) for corpus in corpora],
        output.table(rows, {key: key for key in rows[0]} | {"gpt2": "GPT-2 tokens"}),
    )


def add_own(args: argparse.Namespace) -> Outcome:
    from lab.data.corpora import add_corpus

    corpus = add_corpus(args.name or args.path.name, args.path)
    text = (
        f"Added {corpus.name}: {corpus.characters:,} characters. Train on it with `lab train --corpus {corpus.name}`."
    )
    return Outcome(_document(corpus), text)


def download(args: argparse.Namespace) -> Outcome:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from lab.data.corpora import download_corpus

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(args.name, total=None)
        corpus = download_corpus(args.name, lambda done, total: bar.update(task, completed=done, total=total))
    return Outcome(_document(corpus), f"{corpus.title} is here: {corpus.path}")


def stats(args: argparse.Namespace) -> Outcome:
    from lab.data.corpora import corpus_stats, find_corpus

    found = corpus_stats(find_corpus(args.name))
    tokenizers = [{"tokenizer": name, **figures} for name, figures in found["tokenizers"].items()]
    plain = {name: value for name, value in found.items() if not isinstance(value, (list, dict))}
    common = {
        name.replace("_", " "): "  ".join(f"{what} {count:,}" for what, count in value)
        for name, value in found.items()
        if isinstance(value, list)
    }
    text = "\n\n".join([output.facts(plain), output.facts(common), output.table(tokenizers)])
    return Outcome(found, text)


def _document(corpus: "Corpus") -> dict[str, Any]:
    return {**dataclasses.asdict(corpus), "is_here": corpus.is_here}
