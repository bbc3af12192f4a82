"""The box to try a model in: prompt, sampling, and a text that appears token by token.

The engine generates; the page only asks and reads, so a click elsewhere, a page switch or a reload does not
break it off.
"""

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.ui.actions import attempt
from app.ui.messages import plain
from app.ui.state import get_engine
from app.ui.writing import Entry, writing
from lab.models.checkpoints import CheckpointInfo

if TYPE_CHECKING:
    from lab.generations import Generation

WRITING_POLL_S = 0.4
_ID = "generation"
STEP_KEY = "generate_step"
"""Session key of the checkpoint to write from."""
NEWEST = -1
"""Its value for the newest state, whichever that is when Generate is pressed."""


def draw_generation(run_id: str, checkpoints: list[CheckpointInfo], *, opening: str) -> None:
    """Controls and the text.

    Args:
        opening: the prompt to begin with.
    """
    if not checkpoints:
        st.caption("The model can be tried from its first evaluation on, when its first state is kept.")
        return
    prompt = st.text_area(
        "Prompt", key="prompt", value=opening, height=80, persist_state="session",
        help="The model goes on from here. A model on characters knows only the characters of its text.",
    )  # fmt: skip
    columns = st.columns(2)
    with columns[0]:
        temperature = st.slider(
            "Temperature", 0.0, 2.0, 0.8, 0.05, key="temperature", persist_state="session",
            help="Below 1 it keeps to what it is sure of, above 1 it dares more. 0: always the likeliest token.",
        )  # fmt: skip
    with columns[1]:
        draw_states(checkpoints, "From", key=STEP_KEY, help="Which checkpoint writes.")
    step = chosen_state(checkpoints, key=STEP_KEY)
    sampling = draw_more()
    writing_now = is_writing()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Generate",
            type="primary",
            key="generate",
            disabled=writing_now,
            on_click=_generate,
            args=(run_id, step, prompt, {"temperature": temperature, **sampling}),
        )
        if writing_now:
            st.button("Stop", key="generate_stop", on_click=stop)
    draw_text()


def draw_states(checkpoints: list[CheckpointInfo], label: str, *, key: str, help: str, **layout: Any) -> None:
    """Which of a run's states is asked: its newest, whichever that is then, or one that is kept."""
    st.selectbox(
        label,
        [NEWEST, *(info.step for info in reversed(checkpoints))],
        format_func=lambda step: "its newest state" if step == NEWEST else f"step {step:,}",
        key=key,
        persist_state="session",
        help=help,
        **layout,
    )


def chosen_state(checkpoints: list[CheckpointInfo], *, key: str) -> int | None:
    """The step that was chosen; None for the newest state, also where the rolling state has moved on since."""
    step = st.session_state.get(key, NEWEST)
    return step if step in {info.step for info in checkpoints} else None


def draw_more() -> dict[str, float | None]:
    """The sampling knobs that one seldom touches."""
    with st.popover("More", type="tertiary"):
        top_k = st.number_input(
            "Top-k", value=None, min_value=1, step=1, key="top_k", persist_state="session", placeholder="all",
            help="Draw from the k likeliest tokens only.",
        )  # fmt: skip
        top_p = st.number_input(
            "Top-p", value=None, min_value=0.01, max_value=1.0, step=0.05, key="top_p", persist_state="session",
            placeholder="all", help="Draw from the fewest likeliest tokens that together have this share.",
        )  # fmt: skip
        length = st.number_input(
            "Longest text (tokens)", value=200, min_value=1, step=50, key="max_new_tokens", persist_state="session",
            help="It stops earlier where the text itself ends. Beyond its context it forgets the beginning.",
        )  # fmt: skip
        seed = st.number_input(
            "Seed", value=0, min_value=0, step=1, key="generation_seed", persist_state="session",
            help="Same seed, prompt and model: same text.",
        )  # fmt: skip
    return {"top_k": top_k, "top_p": top_p, "max_new_tokens": length, "seed": seed}


def draw_text() -> None:
    """The text so far, each token coloured."""
    drawn = current()
    if drawn is None:
        st.caption("The text appears here, each token coloured by how sure the model was of it.")
        return
    pieces = [(piece.text, piece.probability) for piece in drawn.pieces]
    writing([Entry(pieces=pieces, prompt=drawn.prompt)], key="generated", height=280, follow=True)
    at = f"Written by the state of step {drawn.step:,}. " if drawn.step is not None else ""
    st.caption(f"{at}The stronger the colour, the surer it was; point at a token for the figure.")
    if drawn.error:
        st.error(plain(drawn.error))


def is_writing() -> bool:
    """Whether the text this person asked for last is still growing."""
    drawn = current()
    return drawn is not None and not drawn.done


def current() -> "Generation | None":
    """The generation this person asked for last; None when there is none or the app was restarted since."""
    wanted = st.session_state.get(_ID)
    return None if wanted is None else attempt(lambda: get_engine().writing.get(wanted))


def _generate(run_id: str, step: int | None, prompt: str, sampling: dict[str, float | None]) -> None:
    begin(run_id if step is None else f"{run_id}@{step}", prompt, sampling)


def begin(ref: str, prompt: str, sampling: dict[str, float | None], precision: str = "auto") -> None:
    """Ask the engine for a text, and remember which. For callbacks."""

    def ask() -> str:
        from lab.models.sampling import Sampling  # here: it brings torch along, and the page must paint without

        return get_engine().writing.begin(ref, prompt, Sampling(**sampling), precision)  # type: ignore[arg-type]

    started = attempt(ask)
    if started is not None:
        st.session_state[_ID] = started


def stop() -> None:
    """End the text that this person asked for last. For callbacks."""
    attempt(lambda: get_engine().writing.stop(st.session_state[_ID]))
