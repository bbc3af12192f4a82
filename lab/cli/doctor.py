"""`lab doctor`: is everything here that the lab needs, and what to do where it is not."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.store.repair import Finding

MARKS = {"ok": "✓", "note": "·", "bad": "✗"}


def add(commands: Commands) -> None:
    parser = commands.add(
        "doctor", doctor, "Versions, devices, threads, offline assets, the record's health, and what to do about each."
    )
    parser.add_argument(
        "--repair", action="store_true", help="mend the record first; what is damaged is kept under another name"
    )


def doctor(args: argparse.Namespace) -> Outcome:
    from lab.cli import checks

    mended = _repaired() if args.repair else []
    found = [check for look in checks.ALL for check in look()]
    broken = [check for check in found if check.state == "bad"]
    lines = []
    if args.repair:
        lines += ["Repair", *(f"  {MARKS['ok' if one.is_mended else 'note']} {one.sentence}" for one in mended)]
        lines += [] if mended else ["  ✓ Nothing had to be mended."]
    for area in dict.fromkeys(check.area for check in found):
        lines.append(f"{area}")
        for check in (check for check in found if check.area == area):
            lines.append(f"  {MARKS[check.state]} {check.name}: {check.found}")
            if check.advice:
                lines.append(f"      → {check.advice}")
    lines.append("")
    lines.append(
        f"{len(broken)} of {len(found)} checks need attention." if broken else "Everything the lab needs is here."
    )
    repaired = {"repaired": [dataclasses.asdict(one) for one in mended]} if args.repair else {}
    document = {**repaired, "ok": not broken, "checks": [dataclasses.asdict(check) for check in found]}
    return Outcome(document, "\n".join(lines), code=1 if broken else 0)


def _repaired() -> "list[Finding]":
    from lab.store.repair import repair

    return repair()
