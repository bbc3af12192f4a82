"""How much arithmetic a token of a run's training costs, so that runs of different sizes can share an axis."""

import json
from contextlib import suppress

from lab.config import PretrainConfig, from_json
from lab.errors import ConfigError, RunError
from lab.models.parts import training_flops_per_token
from lab.store.cursor import Cursor


def flops_per_token(cursor: Cursor, run_id: str) -> int:
    """Floating point operations per training token, forward and backward.

    Counted from the model's shape where the config tells it (`models.parts.training_flops_per_token`), else 6 per
    parameter: a multiplication and an addition each, in the forward pass and twice in the backward pass.

    Raises:
        RunError: the record knows neither.
    """
    row = cursor.execute("SELECT config, n_params FROM runs WHERE run_id = ?", [run_id]).fetchone()
    if row is None:
        raise RunError(f"The record knows no run {run_id!r}; `lab runs list` shows the runs there are.")
    config, n_params = row
    with suppress(ConfigError):  # an imported run, or one of a newer lab
        found = from_json(json.loads(config or "{}"))
        if isinstance(found, PretrainConfig):
            return training_flops_per_token(found.model)
    if n_params is None:
        raise RunError(
            f"Run {run_id} cannot be drawn over FLOPs: the record knows neither its shape nor its number of parameters."
        )
    return 6 * n_params
