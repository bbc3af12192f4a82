"""`lab runs …`: what has been trained."""

import argparse
from typing import TYPE_CHECKING, Any

from lab.cli import output, run_archives, run_labels
from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    import pandas

    from lab.store import Condition

STATUSES = ("queued", "running", "paused", "finished", "stopped", "failed", "interrupted")


def add(commands: Commands) -> None:
    group = commands.group("runs", "What has been trained, and how it went.")
    parser = group.add("list", list_all, "All runs, newest first.")
    parser.add_argument("--status", choices=STATUSES, help="only runs of this status")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N runs")
    parser.add_argument("--search", default="", metavar="WORDS", help="all of them in id, name, note, tags or corpus")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="only runs with this tag; repeatable")
    parser.add_argument("--kind", help="only runs of this kind, such as pretrain or imported")
    parser.add_argument("--where", action="append", default=[], metavar="SETTING=VALUE", help="repeatable; also < > !=")
    parser.add_argument(
        "--sort", default="created_at", metavar="KEY", help="a column, a metric (val/loss) or a setting"
    )
    parser.add_argument("--best", action="store_true", help="sort by the metric's best value, not its last")
    parser.add_argument("--ascending", action="store_true", help="smallest first")
    parser.add_argument(
        "--place", choices=("current", "archived", "deleted", "all"), default="current", help="which runs"
    )
    parser = group.add("show", show, "One run: its settings, figures, checkpoints, events and last samples.")
    parser.add_argument("run_text", metavar="RUN", help="id, beginning of an id, or name of the run")
    run_archives.add(group)
    run_labels.add(group)


def list_all(args: argparse.Namespace) -> Outcome:
    from lab.store import RunSearch, connect_readonly, find_runs

    search = RunSearch(
        text=args.search,
        status=(args.status,) if args.status else (),
        kind=(args.kind,) if args.kind else (),
        tags=tuple(args.tag),
        conditions=tuple(map(_condition, args.where)),
        place=args.place,
        sort=args.sort,
        value="best" if args.best else "last",
        ascending=args.ascending,
    )
    with connect_readonly() as record:
        rows = _rows(find_runs(record, search, limit=args.limit))
        as_of = record.as_of
    columns = {
        "run_id": "run",
        "name": "name",
        "status": "status",
        "step": "step",
        "total_steps": "of",
        "val_loss": "val loss",
        "bits_per_byte": "bits/byte",
        "n_params": "parameters",
        "device": "device",
    }
    text = output.table(rows, columns) or "There are no runs yet: `lab train` starts the first."
    return Outcome(rows, text + (f"\n\nas of {as_of:%H:%M:%S} UTC" if as_of else ""))


def _condition(text: str) -> "Condition":
    """learning_rate>=0.001 in its parts."""
    from lab.errors import StoreError
    from lab.store.run_search import OPERATORS, Condition

    for operator in sorted(OPERATORS, key=len, reverse=True):
        name, sign, value = text.partition(operator)
        if sign and operator != "contains":
            return Condition(name.strip().replace("-", "_"), operator, value.strip())
    raise StoreError(f"{text!r} is no condition: write SETTING=VALUE, SETTING<VALUE, SETTING>=VALUE or SETTING!=VALUE.")


def show(args: argparse.Namespace) -> Outcome:
    from lab.rundir import find_run
    from lab.store import connect_readonly, queries

    run = find_run(args.run_text)
    with connect_readonly() as record:
        row = queries.run_row(record, run.run_id)
        latest = {name: newest._asdict() for name, newest in queries.latest(record, run.run_id).items()}
        units = queries.metric_info(record)
        checkpoints, events, samples, predictions = (
            _rows(question(record, run.run_id))
            for question in (queries.checkpoints, queries.events, queries.samples, queries.predictions)
        )
    document = {
        **row,
        "path": run.path,
        "metrics": latest,
        "checkpoints": checkpoints,
        "events": events,
        "samples": samples,
        "predictions": predictions,
    }
    return Outcome(document, _text(document, units))


def _text(run: dict[str, Any], units: dict[str, dict[str, Any]]) -> str:
    parts = [f"{run['name']} ({run['run_id']}) · {run['status']}" + (f"\n{run['error']}" if run["error"] else "")]
    about = (
        "parent_run_id",
        "parent_step",
        "device",
        "host",
        "n_params",
        "total_steps",
        "created_at",
        "ended_at",
        "path",
    )
    parts.append(output.facts({name: run[name] for name in about if run[name] is not None}))
    for section, knobs in (run["config"] or {}).items():
        if isinstance(knobs, dict):
            parts.append(f"{section}\n{output.facts(knobs)}")
    metrics = [
        {"metric": name, "value": newest["value"], "unit": units.get(name, {}).get("unit"), "step": newest["step"]}
        for name, newest in sorted(run["metrics"].items())
    ]
    for title, rows, columns in (
        ("Metrics", metrics, ("metric", "value", "unit", "step")),
        ("Checkpoints", run["checkpoints"], ("step", "kind", "val_loss", "bytes", "path")),
        ("Predictions", run["predictions"], ("metric", "predicted", "low", "high", "actual", "who")),
        (
            "Events",
            [{**event, "time": f"{event['time']:%H:%M:%S}"} for event in run["events"]],
            ("time", "step", "kind", "message"),
        ),
    ):
        if rows:
            parts.append(f"{title}\n{output.table(rows, {name: name for name in columns})}")
    if run["samples"]:
        last = run["samples"][-1]
        parts.append(f"What it wrote at step {last['step']:,}\n{last['prompt']}{last['text']}")
    return "\n\n".join(parts)


def _rows(frame: "pandas.DataFrame") -> list[dict[str, Any]]:
    """A DataFrame as dicts; a missing value is None, and a whole number stays one beside it."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
