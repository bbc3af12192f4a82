"""The commands of `lab` and their flags. Cheap: what a command needs is imported when it runs."""

import argparse

from lab.cli import (
    attention,
    chat,
    compare,
    control_commands,
    corpora,
    datasets,
    doctor,
    estimate,
    export,
    generate,
    models,
    probe,
    runs,
    sql,
    train,
)
from lab.cli.commands import Commands

COMMANDS = (
    train,
    estimate,
    control_commands,
    generate,
    chat,
    models,
    attention,
    probe,
    compare,
    export,
    runs,
    sql,
    corpora,
    datasets,
    doctor,
)
"""Each module adds its commands with `add(commands)`; the order is that of `lab --help`."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description="LLM Learning Lab: train a GPT of your own, watch it learn, and look inside.",
        epilog="Exit codes: 0 done, 1 a clear error, 2 wrong usage, 130 interrupted. "
        "LAB_HOME (default: the repository) is where runs and their record are kept.",
        allow_abbrev=False,
    )
    commands = Commands(parser)
    for module in COMMANDS:
        module.add(commands)
    return parser
