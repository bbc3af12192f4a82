"""`lab status`, `lab pause`, `lab stop`, `lab save`: any live run, whichever process it lives in."""

import argparse
from typing import Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome


def add(commands: Commands) -> None:
    commands.add("status", status, "What is training and what waits in the queue, in this and other processes.")
    for name, help in (
        ("pause", "Pause a live run; `lab resume RUN` lets it go on."),
        ("stop", "Stop a live run: it writes its final checkpoint and ends."),
        ("save", "Ask a live run to write a checkpoint now; the run goes on."),
    ):
        parser = commands.add(name, ask, help)
        parser.add_argument("run_text", metavar="RUN", help="id, beginning of an id, or name of the run")
        parser.set_defaults(asked=name)


def status(args: argparse.Namespace) -> Outcome:
    from lab.store import connect_readonly, queries

    with connect_readonly() as record:
        runs = [_with_time_left(row) for row in queries.live_runs(record)]
    columns = {
        "run_id": "run",
        "name": "name",
        "status": "status",
        "step": "step",
        "total_steps": "of",
        "val_loss": "val loss",
        "tokens_per_second": "tokens/s",
        "left": "time left",
    }
    rows = [{**run, "left": _said(run["seconds_left"])} for run in runs]
    text = (
        output.table(rows, columns) or "Nothing is running. `lab train` starts a run; `lab runs list` shows past ones."
    )
    return Outcome({"runs": runs}, text)


def _with_time_left(row: dict[str, Any]) -> dict[str, Any]:
    known = None not in (row["total_steps"], row["step"], row["seconds_per_step"])
    return {**row, "seconds_left": (row["total_steps"] - row["step"]) * row["seconds_per_step"] if known else None}


def _said(seconds: float | None) -> str | None:
    return output.human_seconds(seconds) if seconds is not None else None


def ask(args: argparse.Namespace) -> Outcome:
    from lab.errors import RunError
    from lab.rundir import find_run

    run = find_run(args.run_text)
    if not run.is_alive():
        status = run.info()["status"]
        raise RunError(f"Run {run.run_id} is {status} and no process trains it: there is nothing to {args.asked}.")
    if args.asked == "save":
        run.ask(save=True)
    else:
        run.ask(want=args.asked)
    return Outcome({"run_id": run.run_id, "asked": args.asked}, f"Asked run {run.run_id} to {args.asked}.")
