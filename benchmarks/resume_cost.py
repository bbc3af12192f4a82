"""What keeping the rolling resume state costs a training.

    python -m benchmarks.resume_cost [--rounds 7] [--presets pocket nano]

A state is copied in the training thread, which stands still for that long, and written, hashed and synced by a second
thread while the steps go on. So at most it costs the stop plus the second thread's processor time, where no core is
free for that. A state is kept at each evaluation (every 100 steps by default) and at least every 60 seconds; the share
is of that time.
Writes benchmarks/results/resume_cost.json.
"""

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

from benchmarks.results import store

STEPS = {"pocket": 40, "nano": 4}
"""Between two states, so that each is written while training goes on."""
PRECISION = "bf16"


class Nowhere:
    """A recorder that keeps nothing: recording has a benchmark of its own."""

    def rows(self, table: str, rows: object) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


def trainer_of(preset: str, threads: int) -> Any:
    """A trainer of this preset in a run directory of its own, as a run has it."""
    import torch

    from lab.config import PRESETS, changed
    from lab.control import Control
    from lab.data.batches import WindowBatches, prepare_text
    from lab.rundir import create_run
    from lab.training.keeper import Keeper
    from lab.training.precision import Precision
    from lab.training.pretraining import PretrainTask
    from lab.training.threads import use_threads
    from lab.training.trainer import Trainer

    use_threads(threads)
    config = PRESETS[preset]
    data = prepare_text(config)
    config = changed(config, vocab_size=data.tokenizer.vocab_size, max_steps=1_000_000)
    run = create_run(config)
    task = PretrainTask(config, data, torch.device("cpu"))
    task.precision = Precision(PRECISION, task.device)
    batches = WindowBatches(
        data.train,
        context_length=config.model.context_length,
        stride=config.stride,
        batch_size=config.train.batch_size,
        seed=1,
    )
    keeper = Keeper(run, keep_last=1, on_change=lambda info: None)
    return Trainer(
        task, batches, config, Nowhere(), Control(run.control_path), keeper=keeper, matmul_peak=1e12, identity={}
    )


def measure(preset: str, rounds: int, threads: int) -> dict[str, Any]:
    from lab.models.checkpoints import checkpoints_in

    trainer = trainer_of(preset, threads)
    writer_s = watched_writer(trainer.keeper)
    stop_s, step_s = [], []
    trainer.task.model.train()
    trainer._step()  # the optimizer's averages exist from here on
    for _ in range(1 + rounds):
        started = time.perf_counter()
        trainer._keep_resume()
        stop_s.append(time.perf_counter() - started)
        for _ in range(STEPS[preset]):
            started = time.perf_counter()
            trainer._step()
            step_s.append(time.perf_counter() - started)
        trainer.keeper.collect(wait=True)
    (state,) = checkpoints_in(trainer.keeper.run.resume)
    trainer.keeper.close()
    stop, writer = statistics.median(stop_s[1:]), statistics.median(writer_s[1:])  # the first has none to replace
    every_s = min(60.0, trainer.config.train.eval_every * statistics.median(step_s))
    figures = {
        "state_mib": round(state.bytes / 2**20, 1),
        "step_ms": round(statistics.median(step_s) * 1e3, 1),
        "state_every_s": round(every_s, 1),
        "training_stands_still_ms": round(stop * 1e3, 1),
        "writer_cpu_ms": round(writer * 1e3, 1),
        "share_at_most_percent": round(100 * (stop + writer) / every_s, 2),
    }
    print(
        f"{preset}: a state of {figures['state_mib']} MiB every {every_s:.1f} s stops training for "
        f"{figures['training_stands_still_ms']} ms and takes {figures['writer_cpu_ms']} ms of a second thread: "
        f"at most {figures['share_at_most_percent']} % of the run"
    )
    return figures


def watched_writer(keeper: Any) -> list[float]:
    """Seconds of processor time that the writing thread took for each state, as they come."""
    taken: list[float] = []
    write = keeper._write_resume

    def watched(snapshot: Any) -> Any:
        started = time.thread_time()
        try:
            return write(snapshot)
        finally:
            taken.append(time.thread_time() - started)

    keeper._write_resume = watched
    return taken


def main() -> None:
    from lab.cores import cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--presets", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--threads", type=int, default=cores())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = home
        found = {preset: measure(preset, args.rounds, args.threads) for preset in args.presets}
    store(
        "resume_cost",
        {
            "rounds": args.rounds,
            "threads": args.threads,
            "precision": PRECISION,
            "load_average": round(os.getloadavg()[0], 1),
            **found,
        },
    )


if __name__ == "__main__":
    main()
