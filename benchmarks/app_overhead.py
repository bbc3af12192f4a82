"""What the app costs a training: steps per second of the bare loop against the same run under the app.

    python -m benchmarks.app_overhead [--rounds 5]

Bare: forward, backward, update and nothing else, in a process of its own, at whichever thread count is fastest there.
App: the same config on as many threads in the app's training thread, recorded, with the Pretraining page open and
polling: once by a client that reads the answers and draws nothing (what the app itself costs), once by a real browser
on the same machine (that, and what the browser takes from the same cores). Taken in turn: each run under the app stands
between two bare ones and is compared with their mean; the figure is the median ratio.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.page_client import page_open
from benchmarks.results import store

STEPS = {"pocket": 1200, "nano": 36}
SKIP = {"pocket": 500, "nano": 12}  # steps before the clock starts: the page has been opened, its memory forecast made
PRECISION = "bf16"


def bare(preset: str, threads: int) -> float:
    """Steps per second of the loop alone, in this process."""
    import torch

    from lab.config import PRESETS, changed
    from lab.data.batches import WindowBatches, prepare_text
    from lab.training.optimizer import build_optimizer
    from lab.training.precision import Precision
    from lab.training.pretraining import PretrainTask

    torch.set_num_threads(threads)
    config = PRESETS[preset]
    data = prepare_text(config)
    config = changed(config, vocab_size=data.tokenizer.vocab_size)
    task = PretrainTask(config, data, torch.device("cpu"))
    task.precision = Precision(PRECISION, task.device)
    batches = WindowBatches(
        data.train,
        context_length=config.model.context_length,
        stride=config.stride,
        batch_size=config.train.batch_size,
        seed=1,
    )
    optimizer = build_optimizer(task.model, config.optim)
    task.model.train()
    started = 0.0
    for step in range(STEPS[preset]):
        if step == SKIP[preset]:
            started = time.perf_counter()
        (batch,) = batches.next_step()
        (task.loss_sum(batch) / batch.n_labels).backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), config.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (STEPS[preset] - SKIP[preset]) / (time.perf_counter() - started)


def bare_in_its_own_process(preset: str, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.app_overhead", "--bare", preset, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def under_the_app(preset: str, port: int, page: str, threads: int | None) -> tuple[float, int]:
    """Steps per second of a run in the app with its page open, and its threads: those given, or the lab's choice."""
    from lab.config import PRESETS, changed
    from lab.rundir import create_run
    from lab.store import Database, connect_readonly, sweep

    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = home
        # A run that waits in the queue: the app begins it as soon as it is opened.
        run = create_run(
            changed(
                PRESETS[preset],
                precision=PRECISION,
                max_steps=STEPS[preset],
                eval_every=10_000,
                sample_tokens=0,
                threads=threads,
            )
        )
        with Database.open() as database:
            sweep(database)
            database.update_run(run.run_id, queue_pos=0)
        with served(port), OPEN[page](port):
            deadline = time.monotonic() + 240
            while run.info()["status"] in ("queued", "running"):
                assert time.monotonic() < deadline, "the run did not end"
                time.sleep(0.5)
        assert run.info()["status"] == "finished", run.info()
        with connect_readonly() as record:
            clock = record.query(
                "SELECT min(elapsed_s) AS first, max(elapsed_s) AS last FROM metrics "
                "WHERE name = 'train/loss' AND step >= ?",
                [SKIP[preset]],
            )
        seconds = float(clock["last"][0] - clock["first"][0])
        return (STEPS[preset] - SKIP[preset]) / seconds, run.config().compute.threads or 0


@contextmanager
def served(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "streamlit", "run", "app/Home.py", "--server.headless", "true"]
    folder = Path(__file__).parent.parent
    server = subprocess.Popen([*command, "--server.port", str(port)], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        time.sleep(3)
        yield
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def browser_open(port: int) -> Iterator[None]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/pretraining")
        yield
        browser.close()


@contextmanager
def client_open(port: int) -> Iterator[None]:
    with page_open(port, "pretraining") as page:
        yield
        assert page.polls > 20, f"the page polled {page.polls} times only"
        assert page.most_parts >= 6, f"only {page.most_parts} parts of the page polled: it did not show the run"


OPEN = {"client": client_open, "browser": browser_open}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--presets", nargs="+", default=["pocket", "nano"])
    parser.add_argument("--pages", nargs="+", default=list(OPEN), choices=list(OPEN))
    parser.add_argument("--auto", action="store_true", help="let the lab choose the threads, as it does by default")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(bare(args.bare, args.threads))
        return
    from lab.training.machine import thread_candidates

    chosen = "the lab's choice" if args.auto else "as the bare loop's"
    figures = {}
    for preset in args.presets:
        alone = {threads: bare_in_its_own_process(preset, threads) for threads in thread_candidates()}
        fastest = max(alone, key=lambda threads: alone[threads])
        before, rounds = alone[fastest], []
        for number in range(args.rounds):
            entry: dict[str, Any] = {}
            for page in args.pages:
                in_app, threads = under_the_app(preset, 8700 + number, page, None if args.auto else fastest)
                after = bare_in_its_own_process(preset, fastest)
                bare_pace = (before + after) / 2
                entry[page] = {"bare": bare_pace, "app": in_app, "threads": threads, "ratio": in_app / bare_pace}
                before = after
            rounds.append(entry)
            print(preset, entry, flush=True)
        ratios = {page: statistics.median(entry[page]["ratio"] for entry in rounds) for page in args.pages}
        figures[preset] = {"bare_by_threads": alone, "rounds": rounds, "ratio": ratios}
        print(f"{preset}: app / bare = {ratios}")
    store("app_overhead", {"precision": PRECISION, "unit": "steps per second", "threads": chosen, **figures})


if __name__ == "__main__":
    main()
