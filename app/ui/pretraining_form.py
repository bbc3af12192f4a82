"""The form of the Pretraining page: knobs, what they mean together, the guess, and Start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import streamlit as st

from app.ui import corpora
from app.ui.figures import Measured, figures, with_vocabulary
from app.ui.form_figures import draw_figures, draw_parts
from app.ui.form_settings import (
    BUDGET,
    PRESET_KEY,
    checked,
    end_fork,
    fill_all_from_preset,
    fill_from_preset,
    first_preset,
)
from app.ui.form_start import draw_fork_notice, draw_start
from app.ui.forms import Form
from app.ui.memory_panel import SAVING_KNOBS, Places, draw_savings_beside, draw_verdict, saving_places
from app.ui.messages import sentences, show_mistakes
from app.ui.state import FORK_KEY
from lab.config import PRESET_HINTS, PRESETS, PretrainConfig
from lab.errors import ConfigError, LabError

MODEL_FOLD = "Model"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What Start is asked to do."""

    config: PretrainConfig
    name: str
    prediction: tuple[float, float, float] | None
    """Expected validation loss, and the lowest and highest that would not surprise."""
    parent: tuple[str, int] | None
    """Run and step that a fork goes on from."""


def draw_form(
    form: Form, *, measured: Sequence[Measured], busy: bool, start: Callable[[Request], None]
) -> PretrainConfig | None:
    """Draw the whole form in the sidebar.

    Args:
        measured: runs of the past with their speed, for the time estimate.
        busy: something is running, so that Start puts the run in the queue.
        start: called with the request when the person presses Start.

    Returns:
        What the form says, with the vocabulary of its text; None while it has mistakes.
    """
    # Start stands above the folds, so that it is on screen however much is unfolded; but what it starts and the
    # figures depend on the fields inside them, so those are drawn first, into places kept for them.
    basics, summary, go, more, folds = (st.container(gap="xsmall") for _ in range(5))
    with basics:
        draw_fork_notice(
            FORK_KEY,
            stays="the shape of the model and the tokenizer",
            instead="Start from nothing instead",
            end=end_fork,
        )
        places = draw_basics(form)
    with folds:
        places |= draw_folds(form)
        name, guess = draw_name_and_guess()
    config, text, mistakes = checked(form)
    known = None
    if config is not None and text is not None:
        found = figures(config, text, measured)
        known = with_vocabulary(config, text.vocab_size)
        with summary:
            draw_figures(config, text, found)
            draw_verdict(known)
            draw_savings_beside(known, places)
        with more:
            draw_parts(config, found)
    with go:
        show_mistakes([*mistakes, *st.session_state.pop("start_mistakes", [])])
        draw_start(
            key="start",
            busy=busy,
            is_fork=FORK_KEY in st.session_state,
            disabled=config is None or bool(mistakes),
            on_click=_start,
            args=(start, config, name, guess),
        )
    return known


def draw_basics(form: Form) -> Places:
    """Preset, text, budget, learning rate. Returns the places for what other values would save of memory."""
    names = list(PRESETS)
    st.selectbox(
        "Preset",
        names,
        index=names.index(first_preset()),
        key=PRESET_KEY,
        bind="query-params",
        on_change=fill_from_preset,
        args=(form,),
        help="A ready-made run. Choosing one fills the fields below; change any of them. "
        + " ".join(f"{name}: {hint}" for name, hint in PRESET_HINTS.items()),
    )
    form.field("corpus", options=corpora.corpus_names(), naming=corpora.corpus_label)
    corpora.offer_download(st.session_state[form.key("corpus")])
    corpora.own_text(form.key("corpus"))
    left, right = st.columns(2)
    with left:
        form.field("tokenizer")
    with right:
        form.field("batch_size")
    with st.columns(2)[1]:
        places = saving_places(["batch_size"])
    left, right = st.columns(2)
    with left:
        BUDGET.draw_choice(form)
        form.field("seed")
    with right:
        BUDGET.draw_value(form)
        form.field("learning_rate")
    return places


def draw_folds(form: Form) -> Places:
    """Everything else, folded by what it is about; the model first. Returns places as `draw_basics` does."""
    groups = form.groups()
    order = [MODEL_FOLD, *(group for group in groups if group != MODEL_FOLD)]
    places: Places = {}
    with st.expander("Advanced"):
        for group in order:
            st.markdown(f"**{group}**")
            places |= draw_fields(form, groups[group])
        st.button(
            "Back to the preset's values",
            on_click=fill_all_from_preset,
            args=(form,),
            type="tertiary",
            help="Puts every field back to what the preset says.",
        )
    return places


def draw_fields(form: Form, names: Sequence[str]) -> Places:
    """Numbers and choices two in a row; what needs room to be read has a row of its own."""
    places: Places = {}
    leaves = form.leaves
    wide = [name for name in names if leaves[name].type is bool or leaves[name].many]
    narrow = [name for name in names if name not in wide]
    for left, right in zip_longest(narrow[::2], narrow[1::2]):
        columns = st.columns(2, vertical_alignment="bottom")
        with columns[0]:
            form.field(left)
        with columns[1]:
            if right is not None:
                form.field(right)
        if SAVING_KNOBS & {left, right}:
            for column, name in zip(st.columns(2), (left, right), strict=True):
                with column:
                    places |= saving_places([name] if name is not None else [])
    for name in wide:
        form.field(name)
        places |= saving_places([name])
    return places


def draw_name_and_guess() -> tuple[str, tuple[float | None, float | None, float | None]]:
    """What the run is called, and where the person thinks it will end."""
    with st.expander("Name, and your guess"):
        name = st.text_input("Name of the run", key="run_name", persist_state="session", placeholder="made for you")
        st.caption(
            "Which validation loss will it end at? Guessing first is how one finds out what one has understood. "
            "The guess is kept and shown beside the outcome."
        )
        columns = st.columns(3)
        guess = []
        for column, title, key in zip(columns, ("Expected", "from", "to"), ("guess", "low", "high"), strict=True):
            with column:
                guess.append(
                    st.number_input(
                        title, value=None, min_value=0.0, step=0.05, format="%g", key=f"guess_{key}",
                        persist_state="session", help="Validation loss in nats per token." if key == "guess" else None,
                    )
                )  # fmt: skip
    return name, (guess[0], guess[1], guess[2])


def prediction_of(guess: tuple[float | None, float | None, float | None]) -> tuple[float, float, float] | None:
    """The guess as expected, low, high; None when nothing was guessed. A missing end of the range is the guess.

    Raises:
        ConfigError: the range does not hold the guess.
    """
    expected, low, high = guess
    if expected is None:
        if low is None and high is None:
            return None
        raise ConfigError(["Your guess has a range but no expected value: fill in the expected validation loss."])
    low, high = expected if low is None else low, expected if high is None else high
    if not low <= expected <= high:
        raise ConfigError([f"Your guess {expected:g} does not lie in its range from {low:g} to {high:g}."])
    return expected, low, high


def _start(
    start: Callable[[Request], None],
    config: PretrainConfig,
    name: str,
    guess: tuple[float | None, float | None, float | None],
) -> None:
    parent = st.session_state.get(FORK_KEY)
    try:
        title = name.strip() or ("" if parent else f"{st.session_state[PRESET_KEY]} on {corpora.short_name(config)}")
        start(Request(config=config, name=title, prediction=prediction_of(guess), parent=parent))
    except LabError as error:
        st.session_state["start_mistakes"] = sentences(error)
        return
    st.session_state.pop(FORK_KEY, None)
    st.session_state["run_name"] = ""
    for key in ("guess", "low", "high"):
        st.session_state[f"guess_{key}"] = None
