"""The values of the Pretraining form: where they come from, how they are checked, and what fills them."""

from typing import Any

import streamlit as st

from app.ui import corpora, finetuning_settings
from app.ui.actions import attempt
from app.ui.budget import Budget
from app.ui.figures import TextSize
from app.ui.forms import Form
from app.ui.machine import has_gpu
from app.ui.messages import sentences
from app.ui.state import FORK_KEY
from lab.config import PRESETS, PretrainConfig, build_pretrain, default_preset, flat
from lab.data.windows import check_lengths, split
from lab.errors import ConfigError, LabError
from lab.rundir import find_run

PRESET_KEY = "preset"
BUDGET = Budget(key="budget", read="text", usual={"max_steps": 2_000, "max_epochs": 1.0, "max_minutes": 5.0})


def first_preset() -> str:
    """What a newcomer is offered: what this machine can train in minutes."""
    return default_preset(has_gpu())


def pretraining_form() -> Form:
    """The form, with the fields of the first preset as its defaults."""
    return Form(config=PretrainConfig, defaults=flat(PRESETS[first_preset()]))


def form_values(form: Form) -> dict[str, Any]:
    """The form's values with the one budget that is chosen."""
    return BUDGET.values(form) | {"vocab_size": form.defaults["vocab_size"]}


def checked(form: Form) -> tuple[PretrainConfig | None, TextSize | None, list[str]]:
    """The form as a config and its text, and every mistake there is: of fields, between fields, and of the text."""
    try:
        config = build_pretrain(form_values(form))
    except ConfigError as error:
        return None, None, error.mistakes
    try:
        text = corpora.text_size(config)
        train, val = split(text.tokens, config.data.val_fraction)
        check_lengths(
            len(train),
            len(val),
            config.model.context_length,
            val_fraction=config.data.val_fraction,
            corpus=corpora.corpus_label(config.data.corpus),
        )
    except LabError as error:
        return config, None, sentences(error)
    return config, text, []


def varied_fields() -> set[str]:
    """The fields in which the presets differ from each other: the ones that a preset is about."""
    all_values = [flat(config) for config in PRESETS.values()]
    return {name for name in all_values[0] if any(values[name] != all_values[0][name] for values in all_values)}


def fill_from_preset(form: Form) -> None:
    """Put what the chosen preset is about into the form; other fields keep what was typed. For callbacks."""
    values = flat(PRESETS[st.session_state[PRESET_KEY]])
    st.session_state[BUDGET.key] = "max_steps"
    form.fill({name: value for name, value in values.items() if name in varied_fields()})


def fill_all_from_preset(form: Form) -> None:
    """Put every field back to what the chosen preset says. For callbacks."""
    fill_from_config(form, PRESETS[st.session_state[PRESET_KEY]])


def fill_from_config(form: Form, config: PretrainConfig) -> None:
    """Put a run's settings into the form ("use this run's settings"). For callbacks only."""
    BUDGET.fill(form, config)


def use_settings(run_id: str) -> None:
    """Put a run's settings into the form of its kind. For callbacks."""

    def fill() -> None:
        config = find_run(run_id).config()
        if isinstance(config, PretrainConfig):
            fill_from_config(pretraining_form(), config)
        else:
            finetuning_settings.fill_from_config(config)

    attempt(fill)


def begin_fork(run_id: str, step: int) -> None:
    """Make the form a fork of this checkpoint, with the run's settings to start from. For callbacks."""
    use_settings(run_id)
    st.session_state[FORK_KEY] = (run_id, step)


def end_fork() -> None:
    """Make the form start afresh again. For callbacks."""
    st.session_state.pop(FORK_KEY, None)
