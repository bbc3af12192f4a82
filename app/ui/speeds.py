"""How fast runs of the past were, for the time estimate beside the form."""

import json
from functools import lru_cache

import pandas as pd

from app.ui.figures import Measured
from lab.config import PretrainConfig, from_json
from lab.errors import ConfigError
from lab.store import Cursor

_NEWEST = 20
_LONG_ENOUGH_S = 2.0  # a shorter run has measured its own start


def measured_runs(cursor: Cursor, runs: pd.DataFrame) -> list[Measured]:
    """The newest pretraining runs of this machine whose speed was measured."""
    with_speed = runs[(runs["kind"] == "pretrain") & (runs["elapsed_s"] > _LONG_ENOUGH_S)].head(_NEWEST)
    if with_speed.empty:
        return []
    ids = list(with_speed["run_id"])
    marks = ", ".join("?" * len(ids))
    configs = dict(cursor.execute(f"SELECT run_id, config FROM runs WHERE run_id IN ({marks})", ids).fetchall())
    found = []
    for row in with_speed.to_dict("records"):
        config = _parsed(configs[row["run_id"]])
        if config is None:
            continue
        tokens_per_second = row["tokens_seen"] / row["elapsed_s"]  # with its evaluations: what one waits for
        found.append(Measured(name=row["name"], config=config, tokens_per_second=tokens_per_second))
    return found


@lru_cache(maxsize=4 * _NEWEST)
def _parsed(stored: str) -> PretrainConfig | None:
    """A stored config; None for one of a newer lab, whose settings mean nothing here. Kept: pages ask at each draw."""
    try:
        return from_json(json.loads(stored))
    except ConfigError:
        return None
