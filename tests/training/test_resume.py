"""n steps straight, and the same with kill -9 in between as often as you like, are one and the same run."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab.models.checkpoints import checkpoints_in, is_whole, read_checkpoint
from lab.rundir import RunDir, create_run
from lab.store import Database, adopt, checkpoints, ingest, run_row, sweep
from tests.training.crash import acknowledged, server, train_here
from tests.training.helpers import SPEED_ROWS, assert_same_tensors, small

LONG_ENOUGH = {
    "max_steps": 40, "eval_every": 9, "checkpoint_every": 7, "keep_last": 2, "drop_rate": 0.1, "grad_accum_steps": 2,
    "emb_dim": 64, "n_layers": 1, "context_length": 32, "sample_tokens": 4, "weight_decay": 0.1,
}  # fmt: skip
"""About a second; matrices that are large enough to get an 8-bit state."""


REST_S = 0.01
"""After each step of a run that is going to be killed: time to do it in."""


@pytest.fixture
def database(lab_home: Path) -> Iterator[Database]:
    with Database.open() as database:
        yield database


def started(run: RunDir, llama: Path | None = None, rest_s: float = 0.0) -> Any:
    process = server().Process(
        target=train_here, args=(str(run.path.parent.parent), run.run_id, str(llama) if llama else None, rest_s)
    )
    process.start()
    return process


def trained_straight(run: RunDir) -> RunDir:
    process = started(run)
    process.join(120)
    assert process.exitcode == 0
    assert run.info()["status"] == "finished", run.info()
    return run


@dataclass
class Life:
    """What a killed run went through."""

    kills: int = 0
    states: list[str] = field(default_factory=list)


def trained_with_kills(run: RunDir, database: Database, *, kills: int, llama: Path | None = None) -> Life:
    """Kill it `kills` times while it trains, at random moments, look at what it left, and go on."""
    rng, life = random.Random(run.run_id), Life()
    steps = run.config().train.max_steps
    assert steps is not None
    for _ in range(kills):
        process = started(run, llama, REST_S)
        if rng.random() < 0.75:  # else it may not even come to its first step
            _until_it_trains(run, process)
        left = steps - acknowledged(run.path)
        process.join(rng.uniform(0, 0.2 * left * REST_S))
        process.kill()
        process.join()
        assert process.exitcode == -9
        life.kills += 1
        life.states.append(run.info()["status"])
        assert_nothing_acknowledged_is_lost(run, database)
    process = started(run, llama)
    process.join(120)
    assert process.exitcode == 0
    assert run.info()["status"] == "finished", run.info()
    return life


def _until_it_trains(run: RunDir, process: Any) -> None:
    """Only the first steps of a session tell that it has left its preparations."""
    deadline = time.monotonic() + 60
    before = _marks(run)
    while _marks(run) == before and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _marks(run: RunDir) -> int:
    path = run.path / "acknowledged"
    return path.stat().st_size if path.exists() else 0


def assert_nothing_acknowledged_is_lost(run: RunDir, database: Database) -> None:
    adopt(database, run)
    ingest(database, run)
    steps = recorded(database, run, "SELECT DISTINCT step FROM metrics WHERE name = 'train/loss' AND run_id = ?")
    known = set(steps["step"])
    assert known >= set(range(1, acknowledged(run.path) + 1))
    on_disk = {info.step: info for info in checkpoints_in(run.checkpoints)}
    for step in checkpoints(database, run.run_id)["step"]:
        assert is_whole(on_disk[step]), f"the record names a checkpoint of step {step}"
    assert all(is_whole(info) for info in checkpoints_in(run.resume))


def recorded(database: Database, run: RunDir, sql: str) -> pd.DataFrame:
    with database.cursor() as cursor:
        return cursor.execute(sql, [run.run_id]).df()


def learned(database: Database, run: RunDir) -> dict[str, list[Any]]:
    """Every row that does not speak of time, speed or memory."""
    adopt(database, run)
    ingest(database, run)
    marks = ", ".join(f"'{name}'" for name in sorted(SPEED_ROWS))
    metrics = recorded(
        database,
        run,
        f"SELECT step, tokens_seen, name, value FROM metrics WHERE name NOT IN ({marks}) AND run_id = ? ORDER BY ALL",
    )
    samples = recorded(
        database, run, "SELECT step, prompt, text, seed, sampling FROM samples WHERE run_id = ? ORDER BY ALL"
    )
    kept = checkpoints(database, run.run_id)[["step", "path", "val_loss", "kind"]]
    return {
        "metrics": metrics.values.tolist(),
        "samples": samples.values.tolist(),
        "checkpoints": kept.values.tolist(),
        "total_steps": [run_row(database, run.run_id)["total_steps"]],
    }


def assert_same_run(database: Database, killed: RunDir, straight: RunDir) -> None:
    left, right = learned(database, killed), learned(database, straight)
    for table in right:
        assert left[table] == right[table], table
    (steps,) = right["total_steps"]
    evaluations = 1 + steps // 9 + (steps % 9 > 0)
    assert len(right["metrics"]) == 3 * steps + 3 * evaluations, "each once"
    ends = [checkpoints_in(run.checkpoints) for run in (killed, straight)]
    assert [info.step for info in ends[0]] == [info.step for info in ends[1]]
    assert [info.kind for info in ends[0]] == ["kept", "kept", "final"]
    for one, other in zip(*ends, strict=True):
        (tensors, state), (expected_tensors, expected_state) = read_checkpoint(one), read_checkpoint(other)
        assert_same_tensors(tensors, expected_tensors)
        for found in (state, expected_state):
            del found["progress"]["elapsed_s"], found["peak_memory"]
        assert state == expected_state
    assert not any(killed.resume.iterdir())
    assert not list(killed.path.rglob("*.tmp")), "what the killed writers left is tidied up"


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_and_resumed_run_is_the_straight_run_to_the_bit(
    precision: str, gradient_checkpointing: bool, optimizer: str, database: Database
) -> None:
    config = small(
        **LONG_ENOUGH, precision=precision, gradient_checkpointing=gradient_checkpointing, optimizer=optimizer
    )
    straight, killed = trained_straight(create_run(config)), create_run(config)
    life = trained_with_kills(killed, database, kills=2)
    assert life.kills == 2
    assert_same_run(database, killed, straight)


def test_ten_kills_lose_nothing_that_was_acknowledged_and_change_nothing(database: Database) -> None:
    config = small(**{**LONG_ENOUGH, "max_steps": 150}, attention_drop_rate=0.1, precision="fp16")
    straight, killed = trained_straight(create_run(config)), create_run(config)
    life = trained_with_kills(killed, database, kills=10)
    assert life.kills == 10
    assert_same_run(database, killed, straight)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_it_is_while_another_thread_loads_a_hugging_face_model_in_bf16_and_samples(
    precision: str, database: Database, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from tests.training.noise import save_llama

    save_llama(tmp_path / "llama")
    config = small(**LONG_ENOUGH, attention_drop_rate=0.1, precision=precision)
    straight, killed = trained_straight(create_run(config)), create_run(config)
    life = trained_with_kills(killed, database, kills=2, llama=tmp_path / "llama")
    assert life.kills == 2
    assert_same_run(database, killed, straight)


def test_status_of_a_killed_run_is_interrupted_and_after_its_resume_finished(database: Database) -> None:
    run = create_run(small(**LONG_ENOUGH))
    process = started(run)
    _until_it_trains(run, process)
    sweep(database)
    assert run_row(database, run.run_id)["status"] == "running"
    process.kill()
    process.join()
    assert sweep(database) == [run.run_id]
    assert run_row(database, run.run_id)["status"] == run.info()["status"] == "interrupted"
    trained_straight(run)
    sweep(database)
    assert run_row(database, run.run_id)["status"] == "finished"
