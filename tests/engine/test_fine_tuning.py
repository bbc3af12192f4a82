"""The engine's buttons on a fine-tuning run: the same queue, pause, stop, save, resume and fork."""

from pathlib import Path

import pytest

from lab.config import changed
from lab.engine import Engine
from lab.errors import DataError
from lab.rundir import all_runs, find_run
from lab.store import checkpoints, run_row
from tests.engine.helpers import recorded_step, status_of, wait_for_status, wait_for_step, wait_until
from tests.finetuning.conftest import tiny_llama as tiny_llama
from tests.finetuning.helpers import config_for


def test_a_fine_tuning_is_paused_saved_stopped_resumed_and_forked_like_any_run(
    engine: Engine, tiny_llama: Path
) -> None:
    config = config_for(tiny_llama, max_steps=1_000_000, eval_every=1_000_000, eval_tokens=200)
    run_id = engine.submit(config, name="parrot", prediction=(3.0, 2.0, 4.0))
    wait_for_step(engine, run_id, 2)
    assert run_row(engine.database, run_id)["kind"] == "finetune"
    engine.pause(run_id)
    wait_for_status(engine, run_id, "paused")
    step = recorded_step(engine, run_id)
    engine.save(run_id)
    wait_until(lambda: "saved" in set(checkpoints(engine.database, run_id)["kind"]))
    assert recorded_step(engine, run_id) == step, "it stands still"
    engine.unpause(run_id)
    wait_for_step(engine, run_id, step + 1)
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")
    stopped = recorded_step(engine, run_id)
    engine.resume(run_id)
    wait_for_step(engine, run_id, stopped + 1)
    engine.stop(run_id)
    wait_for_status(engine, run_id, "stopped")

    child = engine.fork(run_id, None, changed(find_run(run_id).config(), max_steps=recorded_step(engine, run_id) + 1))
    wait_for_status(engine, child, "finished")
    assert run_row(engine.database, child)["parent_run_id"] == run_id
    assert status_of(engine, child) == "finished"


def test_bad_data_starts_nothing(engine: Engine, tiny_llama: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "One row?", "completion": ""}\n')
    with pytest.raises(DataError):
        engine.submit(config_for(tiny_llama, dataset=str(rows)))
    assert not all_runs()
