"""The values of the Fine-tuning form: where they come from and what fills them."""

from typing import Any

import streamlit as st

from app.ui.forms import Form
from lab.config import FineTuneConfig, flat
from lab.rundir import find_run

BUDGETS = {"max_steps": "Steps", "max_epochs": "Epochs", "max_minutes": "Minutes"}
BUDGET_KEY = "ft_budget"
FORK_KEY = "ft_fork"
"""Session key: (run id, step) of the checkpoint that the form is a fork of; absent when it starts afresh."""


def finetuning_form() -> Form:
    return Form(config=FineTuneConfig, defaults=flat(FineTuneConfig()), prefix="ft_")


def form_values(form: Form) -> dict[str, Any]:
    """The form's values with the one budget that is chosen."""
    values = form.values()
    chosen = st.session_state.get(BUDGET_KEY, "max_steps")
    for name in BUDGETS:
        values[name] = values[name] if name == chosen else None
    return values


def fill_from_config(config: FineTuneConfig) -> None:
    """Put a run's settings into the form. For callbacks only."""
    values = flat(config)
    chosen = next(name for name in BUDGETS if values[name] is not None)
    st.session_state[BUDGET_KEY] = chosen
    finetuning_form().fill({name: value for name, value in values.items() if name not in BUDGETS or name == chosen})


def use_settings(run_id: str) -> None:
    """Put a run's settings into the form. For callbacks.

    Raises:
        LabError: the run is gone, or is no fine-tuning.
    """
    fill_from_config(find_run(run_id).config_as(FineTuneConfig))


def begin_fork(run_id: str, step: int) -> None:
    """Make the form a fork of this checkpoint, with the run's settings to start from. For callbacks.

    Raises:
        LabError: as `use_settings`.
    """
    use_settings(run_id)
    st.session_state[FORK_KEY] = (run_id, step)


def end_fork() -> None:
    """Make the form start afresh again. For callbacks."""
    st.session_state.pop(FORK_KEY, None)
