"""Rounds with files that were torn, or in which one bit has flipped: detected, named, the rest kept."""

import os
import random
from pathlib import Path

from benchmarks.faults import jobs
from benchmarks.faults.checks import Promises, Verdict, listen, opened, process
from benchmarks.faults.kills import segments, tiny
from lab.errors import CheckpointError, LabError
from lab.models.checkpoints import find_checkpoint, read_checkpoint, write_checkpoint
from lab.rundir import create_run
from lab.store import Database, events, ingest, wal
from lab.store.segment_files import list_segments


def hurt(path: Path, luck: random.Random) -> str:
    """Tear the end off a file or flip one of its bits. Returns which."""
    content = bytearray(path.read_bytes())
    if luck.random() < 0.5:
        path.write_bytes(content[: luck.randrange(len(content))])
        return "torn"
    content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)
    return "flipped"


def damaged_log(luck: random.Random, home: Path) -> Verdict:
    """The write-ahead log of a record whose owner died: whole flushes up to the damage, and a sentence."""
    os.environ["LAB_HOME"] = str(home)
    verdict, promises, flushes = Verdict(), Promises(), luck.randrange(2, 30)
    with process(jobs.flush_and_die, home, "r", flushes) as (child, pipe):
        listen(pipe, promises, 60.0)
        child.join()
    log = wal.wal_path(home / "runs.duckdb")
    before = log.read_bytes()
    how = hurt(log, luck)
    after = log.read_bytes()
    safe = before[: _first_difference(before, after)].count(wal._COMMIT)  # commits that lie before the damage
    with opened(home, verdict, told=True) as database, database.cursor() as cursor:
        steps = [step for (step,) in cursor.execute("SELECT step FROM metrics ORDER BY step").fetchall()]
        notices = database.notices
    if steps != list(range(len(steps))) or len(steps) % 20:
        verdict.duplicated += 1
        verdict.notes.append(f"half a flush, or one twice: {len(steps)} rows")
    verdict.acknowledged = safe
    # Of the commits before the damage two belong to the run's row, every other one is a flush.
    others = before.count(wal._COMMIT) - flushes
    verdict.lost += max(0, safe - others - len(steps) // 20)
    is_missing = len(steps) < flushes * 20
    at_an_end = after.endswith(wal._COMMIT) and before.startswith(after)
    if is_missing and not notices and not at_an_end:
        verdict.unnamed += 1
        verdict.notes.append(f"{how}: {len(steps)} of {flushes * 20} rows and not a word")
    return verdict


def _first_difference(one: bytes, other: bytes) -> int:
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))


def damaged_segment(luck: random.Random, home: Path) -> Verdict:
    """One of many segments: put aside, named in the run's events, the others taken in."""
    os.environ["LAB_HOME"] = str(home)
    run, verdict = create_run(tiny(home)), Verdict()
    run.update_info(status="finished")
    count = luck.randrange(2, 12)
    segments(run, count)
    chosen = luck.randrange(count)
    path = list_segments(run.segments)[chosen].path
    hurt(path, luck)
    with opened(home, verdict) as database:
        ingest(database, run)
        with database.cursor() as cursor:
            rows = cursor.execute("SELECT step FROM metrics ORDER BY step").fetchall()
        told = any(path.name in message for message in events(database, run.run_id)["message"])
    expected = [step for step in range(count * 20) if step // 20 != chosen]
    verdict.acknowledged = len(expected)
    found = [step for (step,) in rows]
    verdict.lost += sum(step not in found for step in expected)
    verdict.duplicated += len(found) - len(set(found)) + sum(step not in expected for step in found)
    verdict.unnamed += int(not told or not path.with_name(path.name + ".damaged").exists())
    return verdict


def damaged_checkpoint(luck: random.Random, home: Path) -> Verdict:
    """One of two checkpoints: refused by name, the other one goes on to work, also for a resume."""
    import torch

    from lab.training.keeper import newest_state

    os.environ["LAB_HOME"] = str(home)
    run, verdict = create_run(tiny(home)), Verdict(acknowledged=1)
    for step in (1, 2):
        generator = torch.Generator().manual_seed(step)
        tensors = {"model.w": torch.rand(luck.randrange(10, 50_000), generator=generator)}
        write_checkpoint(run.checkpoints, step=step, tensors=tensors, state={"s": step}, val_loss=None, kind="kept")
    path = run.checkpoints / ("checkpoint-2.safetensors" if luck.random() < 0.7 else "checkpoint-2.json")
    before = path.read_bytes()
    hurt(path, luck)
    try:
        tensors, _ = read_checkpoint(find_checkpoint(run, 2))
    except CheckpointError as error:
        verdict.unnamed += int("checkpoint-2" not in str(error))
    except LabError as error:
        verdict.unnamed += 1
        verdict.notes.append(str(error))
    else:  # a bit of the JSON that means nothing to the weights, a date
        if path.suffix != ".json" or tensors["model.w"].numel() == 0:
            verdict.unnamed += 1
            verdict.notes.append(f"{path.name} was read although {len(before)} bytes had changed")
    state = newest_state(run)
    if state is None or state.info.step not in (1, 2):
        verdict.lost += 1
        verdict.notes.append("the whole checkpoint was not found")
    return verdict


def damaged_archive(luck: random.Random, home: Path) -> Verdict:
    """An archive: refused with nothing taken from it, unless the bit means nothing."""
    from benchmarks.faults.kills import fill
    from lab.store.archive import export_run, import_archive

    os.environ["LAB_HOME"] = str(home)
    run, verdict, out = create_run(tiny(home)), Verdict(), home / "run.labrun"
    steps = luck.randrange(100, 3_000)
    with Database.open(home / "runs.duckdb") as database:
        fill(database, run, steps, luck)
        export_run(database, run.run_id, out, checkpoints=True)
        hurt(out, luck)
        try:
            import_archive(out, run_id="copy")
        except LabError as error:
            verdict.unnamed += int(str(out) not in str(error))
            verdict.untrue += int((home / "outputs" / "copy").exists())
        else:
            with database.cursor() as cursor:
                sql = "SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_id = 'copy'"
                ((rows, different),) = cursor.execute(sql).fetchall()
            verdict.lost += steps - different
            verdict.duplicated += rows - different
    return verdict
