"""Runs the rounds and stores what became of them."""

import argparse
import collections
import dataclasses
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import damage, disks, kills
from benchmarks.faults.checks import Verdict
from benchmarks.results import store

Round = Callable[[random.Random, Path], Verdict]

KILLS: tuple[Round, ...] = (
    kills.pretraining,
    kills.ingest,
    kills.checkpointing,
    kills.migration,
    kills.archive,
)
DAMAGE: tuple[Round, ...] = (
    damage.damaged_log,
    damage.damaged_segment,
    damage.damaged_checkpoint,
    damage.damaged_archive,
)
DISKS: tuple[Round, ...] = (
    disks.full_while_recording,
    disks.full_while_writing_segments,
    disks.full_while_checkpointing,
    disks.full_while_migrating,
    disks.full_while_exporting,
)


def rounds() -> tuple[Round, ...]:
    """Every kind once, kills twice as often; disks only where one can be made."""
    return (*KILLS, *DAMAGE, *KILLS, *(DISKS if disks.can_mount() else ()))


def run_round(number: int, seed: int) -> tuple[str, Verdict]:
    """One round, in a home of its own that is removed if all went well."""
    kinds = rounds()
    kind = kinds[number % len(kinds)]
    luck = random.Random(f"{seed}/{number}")
    home = Path(tempfile.mkdtemp(prefix=f"fault-{number}-"))
    try:
        verdict = kind(luck, home)
    except Exception:  # the harness goes on, and the round counts as failed
        verdict = Verdict(unopened=1, notes=[traceback.format_exc()])
    if verdict.is_good:
        shutil.rmtree(home, ignore_errors=True)
    else:
        verdict.notes.append(f"left in {home}")
    return kind.__name__, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--dry", action="store_true", help="do not store the result")
    args = parser.parse_args()
    started = time.monotonic()
    bad: list[dict[str, Any]] = []
    tallies: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for number in range(args.first, args.first + args.rounds):
        began = time.monotonic()
        name, verdict = run_round(number, args.seed)
        figures = {key: value for key, value in dataclasses.asdict(verdict).items() if key != "notes"}
        tallies[name].update({"rounds": 1, "failed": int(not verdict.is_good), **figures})
        print(
            f"{number:4d} {name:28s} {'ok' if verdict.is_good else 'FAILED'} {time.monotonic() - began:5.1f} s",
            flush=True,
        )
        if not verdict.is_good:
            bad.append({"round": number, "kind": name, **dataclasses.asdict(verdict)})
            print("\n".join(verdict.notes), flush=True)
    total: collections.Counter[str] = sum(tallies.values(), collections.Counter())
    keys = ("rounds", "failed", "acknowledged", "lost", "duplicated", "unopened", "untrue", "unnamed")
    figures = {
        "seed": args.seed,
        "seconds": round(time.monotonic() - started),
        "small_disks": disks.can_mount(),
        **{key: total[key] for key in keys},
        "kinds": {name: {key: tally[key] for key in keys} for name, tally in tallies.items()},
        "failures": bad,
    }
    print(f"{total['rounds']} rounds, {len(bad)} failed, {total['acknowledged']:,} acknowledged, {total['lost']} lost")
    if not args.dry:
        store("faults", figures)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
