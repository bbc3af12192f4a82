"""`lab sql`: questions to the record in SQL."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli.commands import Commands
from lab.cli.output import Outcome, progress_line

if TYPE_CHECKING:
    from lab.store.console import Format

FORMATS: tuple["Format", ...] = ("table", "csv", "json", "parquet")
SHOWN_ROWS, WRITTEN_ROWS = 1_000, 1_000_000

EXAMPLES = """examples:
  lab sql "SELECT run_id, name, status FROM runs ORDER BY created_at"
  lab sql "SELECT name, val_loss, learning_rate FROM pretrain_runs" --format json
  lab sql "SELECT step, value FROM metrics WHERE name = 'val/loss'" --out val.parquet

The query runs in a process of its own on a read-only file, with bounds on time and memory: it cannot change
the record or disturb a training. `lab sql "SHOW TABLES"` lists what there is."""


def add(commands: Commands) -> None:
    parser = commands.add("sql", sql, "Ask the record one question in DuckDB's SQL.", epilog=EXAMPLES)
    parser.add_argument("query", metavar="SQL", help="one SELECT, EXPLAIN, DESCRIBE or SHOW")
    parser.add_argument("--format", choices=FORMATS, help="default: table, or what the ending of --out says")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to standard output")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"most rows (default {SHOWN_ROWS:,}, with --out {WRITTEN_ROWS:,})"
    )
    parser.add_argument(
        "--timeout", type=float, default=30, metavar="S", help="seconds of computing until it is given up (default 30)"
    )
    parser.set_defaults(refuse=parser.error)


def sql(args: argparse.Namespace) -> Outcome:
    from lab.store.console import run_sql

    form: Format = "json" if args.json and args.out is None else _format(args)
    if form == "parquet" and args.out is None:
        args.refuse("--format parquet needs --out FILE: it is not text")
    limit = args.limit if args.limit is not None else (WRITTEN_ROWS if args.out else SHOWN_ROWS)
    answer = run_sql(args.query, limit=limit, timeout_s=args.timeout)
    if answer.notice:
        progress_line(answer.notice)
    if answer.as_of:
        progress_line(f"as of {answer.as_of:%Y-%m-%d %H:%M:%S} UTC: the app has the record open")
    if args.out is not None:
        answer.write(args.out, form)
        rows = answer.table.num_rows
        return Outcome({"out": args.out, "rows": rows}, f"{rows:,} rows written to {args.out}.")
    text = answer.text(form).rstrip("\n")
    return Outcome(json.loads(text) if form == "json" else None, text)


def _format(args: argparse.Namespace) -> "Format":
    """What was asked for, else what the file's ending says, else a table."""
    ending = args.out.suffix.lstrip(".") if args.out else ""
    wanted = args.format or ending
    return next((form for form in FORMATS if form == wanted), "table")
