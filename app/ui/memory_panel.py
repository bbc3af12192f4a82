"""The memory of the run that the form would start: whether it fits, where its peak is, and what would fit instead."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.ui import words
from app.ui.forecasts import TARGETS, Look, get_forecasts, look_at
from app.ui.forms import Form
from app.ui.memory_figure import is_modelled_drawn, step_figure
from app.ui.polled import polled
from app.ui.state import get_engine
from lab.config import PretrainConfig
from lab.models.parts import state_bytes

if TYPE_CHECKING:
    from lab.forecast.answers import Answer, Side, Target
    from lab.forecast.fit import Saving

SAVING_KNOBS = {
    "batch_size", "context_length", "tie_embeddings", "precision", "attention_impl", "optimizer",
    "gradient_checkpointing",
}  # fmt: skip
"""Those whose neighbouring value is forecast, and shown beside the field."""

Places = dict[str, DeltaGenerator]

POLL_S = 1.0
BESIDE_TRAINING_POLL_S = 5.0
"""Only while something is being computed that can be seen."""
TARGET_KEY = "memory_target"
TAB_KEY = "memory_tab"
OPEN_KEY = "memory_open"
"""Session key: whether the panel is unfolded."""
GIB = 2**30
COLOURS = {"green": "green", "amber": "orange", "red": "red"}
SIGNS = {"green": "fits", "amber": "fits narrowly", "red": "does not fit"}


def draw_memory(config: PretrainConfig | None, form: Form, *, expanded: bool = False) -> None:
    """The panel, for the main part of the page.

    Args:
        config: what the form says, with the vocabulary of its text; None while it has mistakes.
    """
    if config is None:
        return
    fold = st.expander(
        "Memory before you start", icon=":material/memory:", expanded=expanded, key="memory_panel", on_change="rerun"
    )
    st.session_state[OPEN_KEY] = fold.open
    with fold:
        target: Target = st.session_state.get(TARGET_KEY) or "here"
        if fold.open:
            target = st.segmented_control(
                "To fit into", list(TARGETS), default="here", required=True, format_func=TARGETS.__getitem__,
                key=TARGET_KEY, persist_state="session",
                help="Which memory the picture and the suggestions are for.",
            ) or "here"  # fmt: skip
        look = look_at(config, target)
        answer = _ask(look)
        # The picture stays as it is once it is known, and takes a tenth of a second to make: not at each look.
        with st.container():
            if fold.open:
                _draw_need(answer, target, config)
        is_done, is_known = answer is not None and answer.is_done, answer is not None
        # Always polled, so that the same things stand in the same place; it looks again only while it has to.
        every = BESIDE_TRAINING_POLL_S if is_known and get_engine().is_training else POLL_S
        waits = not (is_done if _in_full() else is_known)
        polled(_suggestions, look, form, fold.open, is_known, is_done, every=every if waits else None)


def draw_verdict(config: PretrainConfig) -> None:
    """One line for the sidebar, beside the other figures. It does not look again by itself: the panel does."""
    target: Target = st.session_state.get(TARGET_KEY) or "here"
    answer = _ask(look_at(config, target))
    if answer is None or not answer.sides:
        exact = state_bytes(config.model, config.optim.optimizer)["total"]
        st.caption(f"**Memory** computing … weights, gradients and optimizer alone: {words.data(exact)}")
        return
    st.caption(verdict_said(answer))


def verdict_said(answer: "Answer") -> str:
    """What is needed, and whether it fits, in one line."""
    parts = [
        f":{_colour(side)}[**{gib(side.forecast.total_bytes)}** {_short(one, side)}]"
        for one, side in answer.sides.items()
    ]
    return "**Memory** " + " · ".join(parts)


def saving_places(names: Sequence[str]) -> Places:
    """Beside a field that has just been drawn: a place for what another value of it would save."""
    return {name: st.empty() for name in names if name in SAVING_KNOBS}


def draw_savings_beside(config: PretrainConfig, places: Places) -> None:
    """Into those places, once it is known: the neighbouring value of each knob, and what it would change."""
    answer = _ask(look_at(config, st.session_state.get(TARGET_KEY) or "here"))
    for saving in (answer.savings or ()) if answer is not None else ():
        if saving.knob in places:
            places[saving.knob].caption(said_beside(saving))


def said_beside(saving: "Saving") -> str:
    """sdpa: −0.42 GiB."""
    value = "on" if saving.value is True else words.value(saving.value)
    sign = "−" if saving.saves_bytes >= 0 else "+"
    return f"{value}: **{sign}{gib(abs(saving.saves_bytes))}**"


def text_colour() -> str:
    """Of the theme that is shown."""
    kind = st.context.theme.type or "light"
    return str(st.get_option(f"theme.{kind}.textColor"))


def gib(size: float) -> str:
    """Two digits after the point, so that a knob's effect shows; small ones in MiB."""
    return f"{size / GIB:.2f} GiB" if abs(size) >= GIB / 10 else f"{size / 2**20:.1f} MiB"


# -- inside -----------------------------------------------------------------------------------------------


def _ask(look: Look) -> "Answer | None":
    tab = st.session_state.setdefault(TAB_KEY, uuid4().hex)
    return get_forecasts().ask(tab, look, in_full=_in_full())


def _in_full() -> bool:
    """What else would fit is worked out unasked as long as nothing trains, and beside a training where it is seen."""
    return st.session_state.get(OPEN_KEY, False) or not get_engine().is_training


def _suggestions(look: Look, form: Form, is_open: bool, is_known: bool, is_done: bool) -> None:
    answer = _ask(look)
    if answer is not None and (answer.is_done != is_done or not is_known):
        st.rerun()  # twice in all: for the line in the sidebar, and when there is nothing left to look for
    if answer is None or answer.error or not is_open:
        return
    left, right = st.columns(2, gap="large")
    with left:
        _draw_options(answer, look.target, form)
    with right:
        _draw_savings(answer, form)
    if not answer.is_done:
        st.caption("Computing what else would fit …")


def _colour(side: "Side") -> str:
    return COLOURS[side.verdict.colour]


def _short(target: "Target", side: "Side") -> str:
    return f"{SIGNS[side.verdict.colour]} {'here' if target == 'here' else 'in 16 GB'}"


def _draw_need(answer: "Answer | None", target: "Target", config: PretrainConfig) -> None:
    if answer is None:
        exact = state_bytes(config.model, config.optim.optimizer)
        st.caption(
            "Computing: one training step is replayed without memory. Exact already: "
            + ", ".join(f"{name} {words.data(exact[name])}" for name in ("weights", "gradients", "optimizer"))
            + "."
        )
        return
    if answer.error:
        st.warning(answer.error)
        return
    for column, (one, side) in zip(st.columns(2), answer.sides.items(), strict=True):
        with column:
            draw_side(one, side)
    side = answer.sides[target]
    st.altair_chart(step_figure(side.forecast, side.verdict.budget, text_colour()), width="stretch")
    band = ", ".join(f"{part.name} {gib(part.bytes)}" for part in side.forecast.modelled)
    drawn = "The grey band on top is" if is_modelled_drawn(side.forecast) else "On top, not drawn, comes what is"
    st.caption(
        f"One training step from left to right, for {TARGETS[target].lower()}; evaluation and writing a sample stand "
        f"at its end. The most tensors are alive in {side.forecast.peak.sentence}. {drawn} modelled from experience "
        f"and not replayed: {band}. {' '.join(side.forecast.notes)}"
    )


def draw_side(target: "Target", side: "Side") -> None:
    """What is needed of one device, and what is left."""
    verdict, need = side.verdict, side.forecast.total_bytes
    left = abs(verdict.margin_bytes)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.metric(
            TARGETS[target],
            gib(need),
            help=f"Tensors at their peak {gib(side.forecast.peak_bytes)}, and what is modelled. "
            f"{verdict.budget.name} has {gib(verdict.budget.total_bytes)}; "
            f"{gib(verdict.budget.reserve_bytes)} of it are left free.",
            width="content",
        )
        said = f"{gib(left)} to spare" if verdict.fits else f"{gib(left)} missing"
        st.badge(f"{SIGNS[verdict.colour]}, {said}", color=_colour(side))  # type: ignore[arg-type]


def _draw_options(answer: "Answer", target: "Target", form: Form) -> None:
    from lab.forecast.answers import MOST

    st.markdown(f"**Fit me** · {TARGETS[target].lower()}")
    if answer.options is None:
        return
    if not answer.options:
        st.caption("Nothing fits, even with every saving: take a smaller model.")
    for number, option in enumerate(answer.options):
        _draw_choice(option.sentence, option.changes, form, key=f"fit_{number}")
    for knob, title in (("batch_size", "Largest batch"), ("context_length", "Longest context")):
        value = answer.largest.get(knob) if answer.largest else None
        if value is not None:
            changes: dict[str, object] = {knob: value, "stride": None} if knob == "context_length" else {knob: value}
            more = " or more" if value >= MOST[knob] else ""
            _draw_choice(f"{title} that fits: {value:,}{more}", changes, form, key=f"fit_{knob}")


def _draw_savings(answer: "Answer", form: Form) -> None:
    st.markdown("**What each knob alone would change**")
    for number, saving in enumerate(answer.savings or ()):
        changes = {saving.knob: saving.value}
        if saving.knob == "batch_size":
            changes |= {"grad_accum_steps": _accumulation(form, saving.value)}
        if saving.knob == "context_length":
            changes |= {"stride": None}
        sign = "−" if saving.saves_bytes >= 0 else "+"
        _draw_choice(f"**{sign}{gib(abs(saving.saves_bytes))}** {saving.reason}", changes, form, key=f"saving_{number}")


def _accumulation(form: Form, batch: int) -> int:
    values = form.values()
    return int(-(-values["batch_size"] * values["grad_accum_steps"] // batch))


def _draw_choice(said: str, changes: dict[str, object], form: Form, *, key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(said, width="stretch")
        if not changes:
            return
        pressed = st.button("Use", key=key, on_click=form.fill, args=(changes,), help="Puts this into the form.")
        if pressed:
            st.rerun()  # the form stands outside of a part that polls
