"""`lab runs rename|tag|note|archive|delete|restore|purge`: what people say of runs, also beside an open app."""

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.rundir import RunDir


def add(group: Commands) -> None:
    for name, run, help in (
        ("rename", rename, "Call a run something else."),
        ("tag", tag, "Add tags to a run, or take some away."),
        ("note", note, "Set the line that stands beside a run's name."),
    ):
        parser = group.add(name, run, help)
        parser.add_argument("run_text", metavar="RUN", help="id, beginning of an id, or name of the run")
        if name == "tag":
            parser.add_argument("tags", metavar="TAG", nargs="+", help="one or several")
            parser.add_argument("--remove", action="store_true", help="take these tags away")
        else:
            parser.add_argument("text", metavar="TEXT", help="quoted, so that it is one argument; '' removes a note")
    for name, run, help in (
        ("archive", archive, "Take runs out of the list; nothing is deleted."),
        ("delete", delete, "Put runs into the bin; `restore` takes them out, `purge` empties it."),
        ("restore", restore, "Take runs out of the bin or the archive."),
        ("purge", purge, "Delete runs in the bin for good: rows, checkpoints, folder."),
    ):
        parser = group.add(name, run, help)
        parser.add_argument("run_texts", metavar="RUN", nargs="+", help="ids, beginnings of ids, or names")


def rename(args: argparse.Namespace) -> Outcome:
    from lab.store.labels import checked_name

    return _label(args, name=checked_name(args.text))


def note(args: argparse.Namespace) -> Outcome:
    return _label(args, note=args.text.strip() or None)


def tag(args: argparse.Namespace) -> Outcome:
    from lab.rundir import find_run
    from lab.store import connect_readonly, run_row
    from lab.store.labels import checked_tags

    run = find_run(args.run_text)
    with connect_readonly() as record:
        before = run_row(record, run.run_id)["tags"] or []
    tags = [one for one in before if one not in args.tags] if args.remove else [*before, *args.tags]
    return _label(args, tags=checked_tags(tags))


def _label(args: argparse.Namespace, **changes: object) -> Outcome:
    from lab.rundir import find_run
    from lab.store.labels import label_from_anywhere

    run = find_run(args.run_text)
    known = label_from_anywhere(run, **changes)
    ((name, value),) = changes.items()
    said = ", ".join(value) if isinstance(value, list) else value
    text = f"Run {run.run_id}: {name} is {said or 'empty'} now." + ("" if known else _LATER)
    return Outcome({"run_id": run.run_id, **changes}, text)


_LATER = " The open app shows it within a second."


def archive(args: argparse.Namespace) -> Outcome:
    return _each(args, "archived", archived_at=datetime.now(UTC))


def delete(args: argparse.Namespace) -> Outcome:
    from lab.errors import RunError

    for run in _runs(args):
        status = run.info()["status"]
        if run.is_alive() or status == "queued":
            raise RunError(f"Run {run.run_id} is {status}: stop it before it is deleted.")
    return _each(args, "in the bin", deleted_at=datetime.now(UTC))


def restore(args: argparse.Namespace) -> Outcome:
    return _each(args, "back", deleted_at=None, archived_at=None)


def _each(args: argparse.Namespace, said: str, **changes: datetime | None) -> Outcome:
    from lab.store.labels import label_from_anywhere

    runs = _runs(args)
    known = [label_from_anywhere(run, **changes) for run in runs]
    ids = [run.run_id for run in runs]
    return Outcome({"run_ids": ids}, f"{', '.join(ids)}: {said}." + ("" if all(known) else _LATER))


def purge(args: argparse.Namespace) -> Outcome:
    from lab.store import Database, ingest
    from lab.store.labels import purge as purge_run

    runs, freed = _runs(args), 0
    with Database.open() as database:
        for run in runs:
            ingest(database, run)  # the deletion itself may still wait as a segment
            freed += purge_run(database, run.run_id)
        database.checkpoint()
    ids = [run.run_id for run in runs]
    return Outcome(
        {"run_ids": ids, "bytes": freed}, f"{', '.join(ids)}: gone. {output.human_bytes(freed)} are free again."
    )


def _runs(args: argparse.Namespace) -> "list[RunDir]":
    from lab.rundir import find_run

    return [find_run(text) for text in dict.fromkeys(args.run_texts)]
