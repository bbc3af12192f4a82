"""`lab models list|pull|info|remove`: the models that can be opened, and bringing one here."""

import argparse
from typing import TYPE_CHECKING, Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.models.registry import ModelEntry


def add(commands: Commands) -> None:
    group = commands.group("models", "The models that can be opened: your runs, registered ones, folders, the hub's.")
    group.add("list", list_all, "Registered models with size, context, licence and memory, and your runs.")
    parser = group.add("pull", pull_model, "Bring a model to this machine; goes on where it was cut.")
    parser.add_argument("name", metavar="MODEL", help="a registered name such as smollm2-135m, or a hub id OWNER/NAME")
    parser.add_argument("--dry-run", action="store_true", help="only say what it takes and what is free")
    parser = group.add(
        "info", info, "What is known of a model; of one that is here, also whether it can be looked into."
    )
    parser.add_argument("name", metavar="MODEL", help="a run, RUN@STEP, a registered name, a folder, or a hub id")
    parser.add_argument("--check", action="store_true", help="open it and measure whether its inside can be shown")
    parser = group.add("remove", remove_model, "Delete a pulled model from this machine.")
    parser.add_argument("name", metavar="MODEL")


def list_all(args: argparse.Namespace) -> Outcome:
    from lab.models.pulled import pulled
    from lab.models.registry import REGISTRY, find_model
    from lab.rundir import all_runs

    known = {entry.name for entry in REGISTRY}
    entries = [*REGISTRY, *(find_model(note.name) for note in pulled() if note.name not in known)]
    documents = [_document(entry) for entry in entries]
    runs = [{"name": run.info()["name"], "run_id": run.run_id, "status": run.info()["status"]} for run in all_runs()]
    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "parameters": _millions(entry.parameters),
            "context": entry.context,
            **{precision: output.human_bytes(count) for precision, count in entry.memory.items()},
            "here": entry.folder is not None,
            "licence": entry.licence.partition(";")[0],
        }
        for entry in entries
    ]
    text = output.table(rows, {key: key for key in rows[0]})
    text += "\n\nfp32 … 4bit: memory of the weights. `lab models pull NAME` brings one here."
    if runs:
        text += f"\n\nYour runs ({len(runs)}) can be opened by id or name; `lab runs list` shows them."
    return Outcome({"models": documents, "runs": runs}, text)


def pull_model(args: argparse.Namespace) -> Outcome:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from lab.models.pull import plan_pull, pull
    from lab.models.registry import find_model

    entry = find_model(args.name)
    if entry.folder is not None:
        return Outcome(_document(entry), f"{entry.name} is here already: {entry.folder}")
    plan = plan_pull(entry)
    sizes = {"download_bytes": plan.download_bytes, "needed_bytes": plan.needed_bytes, "free_bytes": plan.free_bytes}
    if args.dry_run:
        return Outcome({**_document(entry), **sizes, "fits": plan.fits}, plan.sentence)
    output.progress_line(plan.sentence)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(entry.name, total=plan.download_bytes)

        def told(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        folder = pull(plan, told)
    return Outcome({**_document(entry), **sizes}, f"{entry.name} is here: {folder}")


def info(args: argparse.Namespace) -> Outcome:
    from lab.sessions import open_session
    from lab.sessions.opening import entry_of, run_of

    run = run_of(args.name)
    if run is not None:
        document: dict[str, Any] = {"name": run.info()["name"], "source": "run", "address": run.run_id}
    else:
        entry = entry_of(args.name)
        document = _document(entry)
        if entry.folder is not None:
            from lab.models.pretrained import footprint

            found = footprint(entry.folder)
            document |= {"parameters": found.parameters, "needed": found.needed, "available": found.available}
            document["fits"] = found.fitting
    if args.check:
        session = open_session(args.name)
        parts = session.anatomy
        document |= {
            "step": session.step,
            "precision": session.precision,
            "anatomy": {
                "family": parts.family, "layers": parts.n_layers, "heads": parts.n_heads, "kv_heads": parts.n_kv_heads,
                "width": parts.d_model, "context": parts.context_length, "parallel": parts.parallel,
            },
            "check": {"ok": session.check.ok, "sentence": session.check.sentence, "checks": session.check.to_json()},
        }  # fmt: skip
    return Outcome(document, output.facts(_readable(document)))


def remove_model(args: argparse.Namespace) -> Outcome:
    from lab.models.pulled import remove

    freed = remove(args.name)
    return Outcome(
        {"name": args.name, "freed_bytes": freed}, f"Deleted {args.name}: {output.human_bytes(freed)} freed."
    )


def _document(entry: "ModelEntry") -> dict[str, Any]:
    return {
        "name": entry.name,
        "family": entry.family,
        "source": entry.source,
        "address": entry.address,
        "parameters": entry.parameters,
        "context": entry.context,
        "licence": entry.licence,
        "description": entry.description,
        "memory": entry.memory,
        "folder": str(entry.folder) if entry.folder else None,
    }


def _readable(document: dict[str, Any]) -> dict[str, Any]:
    """The same for people: sizes in bytes become words, groups become lines."""
    lines: dict[str, Any] = {}
    for name, value in document.items():
        if name in ("memory", "needed"):
            lines[name] = "  ".join(f"{precision} {output.human_bytes(count)}" for precision, count in value.items())
        elif name == "available":
            lines[name] = output.human_bytes(value)
        elif name == "check":
            lines[name] = value["sentence"]
        elif isinstance(value, dict):
            lines[name] = "  ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            lines[name] = ", ".join(map(str, value))
        else:
            lines[name] = value
    return lines


def _millions(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:,.0f} M"
