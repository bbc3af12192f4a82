"""The values of the Fine-tuning form: where they come from and what fills them."""

from typing import Any

import streamlit as st

from app.ui.budget import Budget
from app.ui.forms import Form
from lab.config import FineTuneConfig, flat
from lab.rundir import find_run

BUDGET = Budget(key="ft_budget", read="rows", usual={"max_steps": 120, "max_epochs": 2.0, "max_minutes": 5.0})
FORK_KEY = "ft_fork"
"""Session key: (run id, step) of the checkpoint that the form is a fork of; absent when it starts afresh."""


def finetuning_form() -> Form:
    return Form(config=FineTuneConfig, defaults=flat(FineTuneConfig()), prefix="ft_")


def form_values(form: Form) -> dict[str, Any]:
    """The form's values with the one budget that is chosen."""
    return BUDGET.values(form)


def fill_from_config(config: FineTuneConfig) -> None:
    """Put a run's settings into the form. For callbacks only."""
    BUDGET.fill(finetuning_form(), config)


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
