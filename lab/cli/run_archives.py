"""`lab runs export|import|compare`: runs taken elsewhere, and runs side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.store.comparison import Contrast, Neighbour

IMPORT_HELP = """PATH may be
  a file written by `lab runs export`
  a run's folder, or a folder of segments, copied from another machine
  TensorBoard event files, or a folder with some in it or below it
  CSV with the columns step, name, value, or step and one column for each metric"""


def add(group: Commands) -> None:
    parser = group.add(
        "compare", compare, "What differs between runs: settings, final figures, and whether it is luck."
    )
    parser.add_argument("run_texts", metavar="RUN", nargs="+", help="2 to 20 runs: ids, beginnings of ids, or names")
    parser.add_argument("--metric", default="val/loss", metavar="NAME", help="the figure to judge by (val/loss)")
    parser.add_argument("--all", action="store_true", help="also the settings in which they do not differ")

    parser = group.add("export", export, "Write a run to one file that imports elsewhere, or to an HTML report.")
    parser.add_argument("run_text", metavar="RUN", help="id, beginning of an id, or name of the run")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".labrun for an archive, .html for a report"
    )
    parser.add_argument("--checkpoints", action="store_true", help="with the weights, which are most of the size")
    parser.set_defaults(refuse=parser.error)

    parser = group.add("import", import_, "Take in a run from elsewhere.", epilog=IMPORT_HELP)
    parser.add_argument("path", type=Path, metavar="PATH", help="an archive, folder, event file or table")
    parser.add_argument("--as", dest="run_id", metavar="ID", help="give it this id (default: the one it had)")
    parser.add_argument("--name", default="", metavar="NAME", help="what to call a run of another program")


def compare(args: argparse.Namespace) -> Outcome:
    from lab.rundir import find_run
    from lab.store import config_diff, connect_readonly, contrast, run_row, seed_spread

    ids = [find_run(text).run_id for text in args.run_texts]
    with connect_readonly() as record:
        diff = config_diff(record, ids, only_differences=not args.all)
        spread = seed_spread(record, ids, args.metric)
        between = contrast(record, *ids) if len(ids) == 2 else None
        names = {run_id: run_row(record, run_id)["name"] for run_id in ids}
    settings = [{"setting": name, **{run_id: row[run_id] for run_id in ids}} for name, row in diff.iterrows()]
    figures = [
        {"run": names[row["run_id"]], **row}
        for row in spread.astype(object).where(spread.notna(), None).to_dict("records")
    ]
    document: dict[str, Any] = {"settings": settings, "same_settings": diff.attrs["same"], "figures": figures}
    parts = [
        output.table(settings, {"setting": "setting", **names}) or "They do not differ in any setting.",
        f"{args.metric}\n"
        + output.table(
            figures, {"run": "run", "value": "value", "n": "seeds", "mean": "mean", "sd": "sd", "verdict": ""}
        )
        if figures
        else f"None of them has recorded {args.metric}.",
    ]
    if between is not None:
        document["controlled"] = [
            {"setting": one.setting, "like": one.of, "value": one.value, "runs": one.run_ids, "problem": one.problem}
            for one in between.neighbours
        ]
        parts.append(_said(between, names))
    return Outcome(document, "\n\n".join(parts))


def _said(between: "Contrast", names: dict[str, str]) -> str:
    """Which controlled runs there are, and the command that trains a missing one."""
    from lab.store.settings import ORIGIN

    if between.is_controlled:
        if ORIGIN in between.differences:
            return "Their settings are the same, but they began in different places: see began_from."
        return "They differ in at most one setting that matters, so this is a controlled comparison."
    lines = ["To tell which setting made the difference, change one at a time:"]
    for one in between.neighbours:
        what = f"{names[one.of]} with {one.setting} {one.value}"
        if one.run_ids:
            lines.append(f"  {what}: {', '.join(one.run_ids)}")
        elif one.config is not None:
            lines.append(f"  {what}: not trained yet ({_command(one)})")
        else:
            lines.append(f"  {what}: cannot be trained ({one.problem})")
    return "\n".join(lines)


def _command(one: "Neighbour") -> str:
    """What trains it."""
    from lab.store.settings import ORIGIN

    flag = "" if one.setting == ORIGIN else f" --{one.setting.replace('_', '-')} {one.value}"
    if one.parent is None:
        return f"lab train --like {one.of}{flag}"
    parent, step = one.parent
    return f"lab fork {parent} --step {step} --like {one.of}{flag}"


def export(args: argparse.Namespace) -> Outcome:
    from lab.rundir import find_run
    from lab.store import connect_readonly
    from lab.store.archive import export_run
    from lab.store.report import write_report

    run = find_run(args.run_text)
    is_report = args.out.suffix.lower() in (".html", ".htm")
    if is_report and args.checkpoints:
        args.refuse("--checkpoints goes into an archive, not into an HTML report")
    with connect_readonly() as record:
        if is_report:
            write_report(record, run.run_id, args.out)
            members = {}
        else:
            members = export_run(record, run.run_id, args.out, checkpoints=args.checkpoints)
    size = args.out.stat().st_size
    rows = sum(member.rows or 0 for member in members.values())
    document = {
        "run_id": run.run_id,
        "out": args.out,
        "bytes": size,
        "members": {n: vars(m) for n, m in members.items()},
    }
    what = "report" if is_report else f"{rows:,} rows"
    return Outcome(document, f"Run {run.run_id} written to {args.out}: {what}, {output.human_bytes(size)}.")


def import_(args: argparse.Namespace) -> Outcome:
    from lab.store.imports import import_path

    imported = import_path(args.path, run_id=args.run_id, name=args.name)
    lines = []
    for one in imported:
        known = "" if one.is_recorded else " The open app takes its rows in within a second."
        notice = f" {one.notice}" if one.notice else ""
        lines.append(f"Imported run {one.run_id} with {one.rows:,} rows.{known}{notice}")
    return Outcome({"runs": [vars(one) for one in imported]}, "\n".join(lines))
