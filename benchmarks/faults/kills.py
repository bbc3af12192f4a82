"""Rounds with kill -9 at a random moment."""

import os
import random
from pathlib import Path

import duckdb

from benchmarks.faults import jobs
from benchmarks.faults.checks import Promises, Verdict, check_run, kill, listen, opened, process, wait_ready
from lab.config import PRESETS, PretrainConfig, changed
from lab.models.checkpoints import list_checkpoints
from lab.rundir import RunDir, create_run
from lab.store import Database, SegmentRecorder, adopt, migrations
from lab.store.archive import export_run
from lab.store.archive_file import Archive
from lab.store.backups import list_backups
from lab.store.cursor import Cursor
from lab.store.recorder import DatabaseRecorder

STEPS = 120
TEXT = "It was the best of times, it was the worst of times. " * 400


def tiny(home: Path, **settings: object) -> PretrainConfig:
    """A training of a second or two."""
    corpus = home / "corpus.txt"
    if not corpus.exists():
        home.mkdir(parents=True, exist_ok=True)
        corpus.write_text(TEXT)
    small = {"corpus": str(corpus), "tokenizer": "char", "emb_dim": 16, "n_heads": 2, "n_layers": 1, "batch_size": 2}
    fast = {"context_length": 16, "grad_accum_steps": 1, "warmup_steps": 2, "max_steps": STEPS, "eval_every": 10}
    other = {"eval_tokens": 256, "sample_tokens": 4, "checkpoint_every": 7, "keep_last": 2, "device": "cpu"}
    return changed(PRESETS["pocket"], **{**small, **fast, **other, "precision": "fp32", "threads": 1, **settings})


def pretraining(luck: random.Random, home: Path) -> Verdict:
    """Killed twice while training, then trained to its end."""
    return _training(luck, home, tiny(home))


def checkpointing(luck: random.Random, home: Path) -> Verdict:
    """Killed twice while it hardly does anything but write checkpoints of some megabytes."""
    config = tiny(home, emb_dim=192, n_heads=4, n_layers=2, checkpoint_every=1, max_steps=30, eval_every=30)
    return _training(luck, home, config)


def _training(luck: random.Random, home: Path, config: PretrainConfig) -> Verdict:
    os.environ["LAB_HOME"] = str(home)
    run, promises, verdict = create_run(config), Promises(), Verdict()
    through_segments = luck.random() < 0.5
    for _ in range(2):
        with process(jobs.train, home, run.run_id, through_segments) as (child, pipe):
            wait_ready(pipe)
            listen(pipe, promises, luck.uniform(0.0, 1.5))
            kill(child, pipe, promises)
        if promises.finished:
            break
        with opened(home, verdict) as database:
            # Killed before it took the lock, it waits as it did; killed after its last row, it is finished.
            check_run(database, run, promises, verdict, status=("interrupted", "queued", "finished"))
    if run.info()["status"] != "finished":
        with process(jobs.train, home, run.run_id, through_segments) as (child, pipe):
            wait_ready(pipe)
            listen(pipe, promises, 120.0)
            child.join()
    with opened(home, verdict) as database:
        check_run(database, run, promises, verdict, status=("finished",))
        with database.cursor() as cursor:
            sql = "SELECT list(step ORDER BY step) FROM metrics WHERE run_id = ? AND name = 'train/loss'"
            ((steps,),) = cursor.execute(sql, [run.run_id]).fetchall()
    last = config.train.max_steps or 0
    expected = [list(range(last)), list(range(1, last + 1)), list(range(last + 1))]  # whichever way steps are counted
    if steps not in expected:
        verdict.lost += 1
        verdict.notes.append(f"the curve has {len(steps or [])} of {last} steps; {promises.ended}")
    if not list_checkpoints(run):
        verdict.unopened += 1
    return verdict


def ingest(luck: random.Random, home: Path) -> Verdict:
    """One process writes segments, another takes them in; both are killed, the owner several times."""
    os.environ["LAB_HOME"] = str(home)
    run, promises, verdict = create_run(tiny(home)), Promises(), Verdict()
    run.update_info(status="running")
    with process(jobs.record, home, run.run_id, 0) as (writer, said):
        wait_ready(said)
        for _ in range(3):
            with process(jobs.own, home) as (owner, pipe):
                wait_ready(pipe)
                listen(said, promises, luck.uniform(0.0, 0.3))
                kill(owner, pipe, Promises())
        kill(writer, said, promises)
    with opened(home, verdict) as database:
        check_run(database, run, promises, verdict, status=("interrupted",))
    return verdict


def migration(luck: random.Random, home: Path) -> Verdict:
    """Killed while an old record is brought up to date."""
    home.mkdir(parents=True, exist_ok=True)
    path, rows = home / "runs.duckdb", luck.randrange(1_000, 400_000)
    old_record(path, rows)
    verdict = Verdict(acknowledged=rows)
    for _ in range(3):
        with process(jobs.open_record, home) as (child, pipe):
            wait_ready(pipe)
            listen(pipe, Promises(), luck.uniform(0.0, 0.35))
            kill(child, pipe, Promises())
    with opened(home, verdict) as database, database.cursor() as cursor:
        ((count, last),) = cursor.execute("SELECT count(*), max(last_step) FROM metrics, run_totals").fetchall()
        ((done,),) = cursor.execute("SELECT count(*) FROM schema_migrations").fetchall()
    verdict.lost += max(0, rows - count)
    verdict.duplicated += max(0, count - rows)
    verdict.untrue += int(done != len(migrations.MIGRATIONS) or last != rows - 1)
    for backup in list_backups(path):
        with duckdb.connect(str(backup), read_only=True) as connection:
            verdict.lost += rows - connection.execute("SELECT count(*) FROM metrics").fetchall()[0][0]
    return verdict


def old_record(path: Path, rows: int) -> None:
    """A record as the first schema had it, with one finished run."""
    with duckdb.connect(str(path)) as connection, Cursor(connection.cursor()) as cursor:
        known, migrations.MIGRATIONS = migrations.MIGRATIONS, migrations.MIGRATIONS[:1]
        try:
            migrations.migrate(cursor, str(path))
        finally:
            migrations.MIGRATIONS = known
        cursor.execute("INSERT INTO runs (run_id, status) VALUES ('r', 'finished')")
        cursor.execute("INSERT INTO metrics SELECT 'r', range, range, 0, 'a', range FROM range(?)", [rows])


def archive(luck: random.Random, home: Path) -> Verdict:
    """Killed while a run is written to an archive, and while one is read in."""
    os.environ["LAB_HOME"] = str(home)
    run, verdict, out = create_run(tiny(home)), Verdict(), home / "run.labrun"
    steps = luck.randrange(100, 50_000)
    with Database.open(home / "runs.duckdb") as database:
        fill(database, run, steps, luck)
    with process(jobs.export, home, run.run_id, out) as (child, pipe):
        wait_ready(pipe)
        listen(pipe, Promises(), luck.uniform(0.0, 0.4))
        kill(child, pipe, Promises())
    if out.exists():
        with Archive(out) as written:
            written.check()
    os.environ["LAB_HOME"] = str(home)
    with opened(home, verdict) as database:
        export_run(database, run.run_id, out, checkpoints=True)
    other = home / "other"
    with process(jobs.import_, other, out) as (child, pipe):
        wait_ready(pipe)
        listen(pipe, Promises(), luck.uniform(0.0, 0.5))
        kill(child, pipe, Promises())
    promises = Promises()
    promises.rows = {("a", step) for step in range(steps)}
    arrived = jobs.run_folder(other, run.run_id)
    if not arrived.path.exists():  # all of it or nothing: then it can simply be done again
        with process(jobs.import_, other, out) as (child, pipe):
            wait_ready(pipe)
            listen(pipe, Promises(), 60.0)
    with opened(other, verdict) as database:
        check_run(database, arrived, promises, verdict, status=("finished",))
    return verdict


def fill(database: Database, run: RunDir, steps: int, luck: random.Random) -> None:
    """Rows and a file of a checkpoint's size for a run that then counts as finished."""
    adopt(database, run)
    recorder = DatabaseRecorder(database, run.run_id)
    recorder.rows("metrics", jobs.rows(range(steps)))
    recorder.rows("runs", [{"status": "finished"}])
    recorder.close()
    run.update_info(status="finished")
    import torch

    from lab.models.checkpoints import write_checkpoint

    weights = torch.zeros(luck.randrange(1, 400_000))
    write_checkpoint(run.checkpoints, step=1, tensors={"model.w": weights}, state={}, val_loss=None, kind="final")


def segments(run: RunDir, count: int) -> Promises:
    """`count` segments of 20 rows, all acknowledged."""
    recorder, promises = SegmentRecorder(run), Promises()
    for number in range(count):
        rows = jobs.rows(range(number * 20, number * 20 + 20))
        recorder.rows("metrics", rows)
        recorder.flush()
        promises.hear("rows", [(row["name"], row["step"]) for row in rows])
    return promises
