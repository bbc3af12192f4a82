"""Every knob of the config has its widget, with what the config says about it."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from lab.config import PRESETS, PretrainConfig, flat, leaves

KNOBS = {leaf.name: leaf for leaf in leaves(PretrainConfig)}
SHOWN = [leaf for leaf in KNOBS.values() if leaf.level != "derived"]


def every_field() -> None:
    import streamlit as st

    from app.ui.forms import Form
    from lab.config import PRESETS, PretrainConfig, flat, leaves

    form = Form(config=PretrainConfig, defaults=flat(PRESETS["pocket"]))
    for leaf in leaves(PretrainConfig):
        if leaf.level != "derived":
            form.field(leaf.name)
    st.session_state["said"] = form.values()


@pytest.fixture
def page() -> AppTest:
    return AppTest.from_function(every_field).run()


def widgets(page: AppTest) -> dict[str, Any]:
    kinds = ("number_input", "selectbox", "toggle", "text_area", "text_input")
    return {widget.key: widget for kind in kinds for widget in page.get(kind)}


def test_every_knob_has_a_widget_with_its_title_and_hint(page: AppTest) -> None:
    assert not page.exception
    found = widgets(page)
    for leaf in SHOWN:
        assert found[leaf.name].label == leaf.title
        assert found[leaf.name].help.startswith(leaf.hint)


def test_an_untouched_form_says_the_preset(page: AppTest) -> None:
    assert page.session_state["said"] == flat(PRESETS["pocket"])


def test_bounds_come_from_the_config(page: AppTest) -> None:
    found = widgets(page)
    for leaf in SHOWN:
        if leaf.type in (int, float) and not leaf.choices and not leaf.many:
            assert found[leaf.name].min == leaf.minimum or leaf.minimum is None
            assert found[leaf.name].max == leaf.maximum or leaf.maximum is None


def test_an_optional_field_can_be_set_and_says_what_not_set_means(page: AppTest) -> None:
    stride = widgets(page)["stride"]
    assert stride.value is None
    assert "the context length" in stride.help
    stride.set_value(16).run()
    assert page.session_state["said"]["stride"] == 16


def test_prompts_are_lines(page: AppTest) -> None:
    widgets(page)["sample_prompts"].set_value("ROMEO:\n\nFirst Citizen:\n").run()
    assert page.session_state["said"]["sample_prompts"] == ("ROMEO:", "First Citizen:")


def test_plus_and_minus_move_by_about_a_tenth() -> None:
    from app.ui.forms import number_bounds

    assert number_bounds(KNOBS["learning_rate"], 3e-3)["step"] == pytest.approx(1e-4)
    assert number_bounds(KNOBS["max_steps"], 2_000)["step"] == 100
    assert number_bounds(KNOBS["batch_size"], 4)["step"] == 1
