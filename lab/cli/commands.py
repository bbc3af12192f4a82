"""How a command is added to `lab`: all of them look alike and take `--json`."""

import argparse
from collections.abc import Callable

from lab.cli.output import Outcome

Run = Callable[[argparse.Namespace], Outcome]


class Commands:
    """Adds commands that all take `--json` and look alike."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(self, name: str, run: Run, help: str, *, epilog: str = "") -> argparse.ArgumentParser:
        """A command.

        Args:
            run: function (args) -> Outcome.
            help: one sentence.
        """
        parser = self._parsers.add_parser(
            name,
            help=help,
            description=help,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter,
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document on standard output, nothing else there"
        )
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, help: str) -> "Commands":
        """A command that has commands of its own, such as `lab runs list`."""
        return Commands(self._parsers.add_parser(name, help=help, description=help, allow_abbrev=False))
