"""`lab …`: everything the app can do, without the app.

Exit codes: 0 done, 1 a clear error, 2 wrong usage, 130 interrupted. With `--json` standard output holds one
JSON document and nothing else; progress and messages go to standard error.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from lab.cli.output import Outcome, print_json
from lab.cli.parser import build_parser
from lab.errors import ConfigError, LabError

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage leaves through argparse with 2."""
    args = build_parser().parse_args(argv)
    try:
        outcome = _run(args)
        if args.json:
            print_json(outcome.document)
        elif outcome.text:
            print(outcome.text)
        sys.stdout.flush()
        return outcome.code
    except LabError as error:
        if args.json:
            print_json({"error": str(error)})
        print(_said(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `lab runs list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(args: argparse.Namespace) -> Outcome:
    if not args.json:
        return args.run(args)
    # A library that prints would spoil the one document: what it says goes to standard error.
    with contextlib.redirect_stdout(sys.stderr):
        return args.run(args)


def _said(error: LabError) -> str:
    """The error as a person reads it: one line for each mistake."""
    if isinstance(error, ConfigError) and len(error.mistakes) > 1:
        return "\n".join([f"lab: {len(error.mistakes)} settings cannot work:", *(f"  - {m}" for m in error.mistakes)])
    return f"lab: {error}"


__all__ = ["main"]
