"""Runs as the record keeps them, made without training: a folder, a row and a curve."""

from lab.config import PRESETS, changed, to_json
from lab.engine import Engine
from lab.rundir import create_run
from lab.store import DatabaseRecorder

STEPS = 40


def keep(engine: Engine, name: str, *, ends_at: float = 2.0, status: str = "finished", **settings: object) -> str:
    """A run whose losses fall in a straight line from 4 to `ends_at`."""
    config = changed(PRESETS["pocket"], **{"corpus": "tiny", "vocab_size": 50, "max_steps": STEPS, **settings})
    run = create_run(config, name=name)
    run.update_info(status=status)
    info = run.info()
    engine.database.add_run(
        {
            **{key: info[key] for key in ("run_id", "name", "kind", "created_at", "host")},
            "status": "running", "config": to_json(config), "seed": config.train.seed, "n_params": 1_000,
            "total_steps": STEPS, "device": "cpu",
        }
    )  # fmt: skip
    recorder = DatabaseRecorder(engine.database, run.run_id)
    recorder.rows(
        "metrics",
        [
            {
                "step": step, "tokens_seen": step * 64, "elapsed_s": step * 0.1, "name": metric,
                "value": 4.0 + (ends_at - 4.0) * step / STEPS,
            }
            for step in range(STEPS + 1)
            for metric in ("train/loss", "val/loss")
        ],
    )  # fmt: skip
    scores = {(0, 0): (0.04, 0.05, 0.05), (0, 1): (0.05, 0.65, 0.8)}
    recorder.rows(
        "head_stats",
        [
            {"step": step, "text": "t", "layer": layer, "head": head, "name": "induction", "value": values[place]}
            for (layer, head), values in scores.items()
            for place, step in enumerate((0, 20, STEPS))
        ],
    )
    recorder.rows("samples", [{"step": STEPS, "prompt": "The", "text": " boat", "seed": 0, "sampling": {}}])
    recorder.rows("runs", [{"status": status}])
    recorder.close()
    return run.run_id
