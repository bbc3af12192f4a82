"""How long a run is, in either form: given in steps, epochs or minutes, of which one counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.ui.forms import Form
from lab.config import RunConfig, flat

BUDGETS = {"max_steps": "Steps", "max_epochs": "Epochs", "max_minutes": "Minutes"}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The choice between the three fields, on one form. Each way keeps its own value."""

    key: str
    """Session key of what was chosen."""
    read: str
    """What an epoch passes over."""
    usual: Mapping[str, float]
    """What a field starts with when the form's defaults give the budget in another way."""

    def draw_choice(self, form: Form) -> None:
        """In what the budget is given."""
        given = next(name for name in BUDGETS if form.defaults[name] is not None)
        st.selectbox(
            "Train for",
            list(BUDGETS),
            index=list(BUDGETS).index(given),
            format_func=BUDGETS.__getitem__,
            key=self.key,
            bind="query-params",
            help="Give the length of the run in steps (updates of the weights), epochs (passes over the "
            f"{self.read}) or minutes. Minutes become a number of steps once 20 steps have been measured.",
        )

    def draw_value(self, form: Form) -> None:
        """How much of it."""
        name = self.chosen
        default = form.defaults[name]
        form.field(name, start=self.usual[name] if default is None else default)

    @property
    def chosen(self) -> str:
        """The field that counts."""
        return str(st.session_state.get(self.key, "max_steps"))

    def values(self, form: Form) -> dict[str, Any]:
        """The form's values, the other two budgets not set."""
        values = form.values()
        return values | {name: None for name in BUDGETS if name != self.chosen}

    def fill(self, form: Form, config: RunConfig) -> None:
        """Put a run's settings into the form; the budgets that it does not use keep what was typed. For callbacks."""
        values = flat(config)
        chosen = next(name for name in BUDGETS if values[name] is not None)
        st.session_state[self.key] = chosen
        form.fill({name: value for name, value in values.items() if name not in BUDGETS or name == chosen})
