"""Asking base and tuned, side by side, with the adapter turned up and down.

The engine answers; the page only asks and reads, so a click elsewhere, a page switch or a reload does not break it off.
"""

from typing import TYPE_CHECKING

import streamlit as st

from app.ui.actions import attempt
from app.ui.generation import WRITING_POLL_S, chosen_state, draw_states
from app.ui.messages import plain
from app.ui.polled import polled
from app.ui.state import get_engine
from app.ui.token_strip import Chip, token_strip
from lab.config import FineTuneConfig
from lab.data.tokenizers import visible
from lab.models.checkpoints import CheckpointInfo, list_checkpoints
from lab.rundir import find_run

if TYPE_CHECKING:
    from lab.finetuning.chat import Word
    from lab.generations import Chat

LONGEST = 400
FULL_HEAT = 3.0
"""Nats of KL at which a token has its full colour."""
_QUESTION, _SCALE, _TEMPERATURE, _LENGTH = "ft_chat_question", "ft_chat_scale", "ft_chat_temperature", "ft_chat_length"
STEP_KEY = "ft_chat_step"
"""Session key of the checkpoint that answers."""


def draw_chat(run_id: str) -> None:
    """The question, the adapter's strength, and both answers as they come."""
    run = find_run(run_id)
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        st.caption("The model can be asked from its first evaluation on, when its first state is kept.")
        return
    has_adapter = run.config_as(FineTuneConfig).has_adapter
    answering = _is_answering(_newest(run_id))
    _draw_question(run_id, checkpoints, has_adapter, answering)
    polled(_draw_answers, run_id, has_adapter, answering, every=WRITING_POLL_S if answering else None)


def chips_of(words: "list[Word]") -> list[Chip]:
    """The tokens of an answer, coloured by how much the tuning changed what could stand there."""
    return [
        Chip(
            visible(word.text),
            "plain",
            min(1.0, word.kl / FULL_HEAT),
            f"KL {word.kl:.2f} nats; this token: {word.probability:.1%}, by the base {word.base_probability:.1%}",
        )
        for word in words
    ]


# -- inside -----------------------------------------------------------------------------------------------


def _newest(run_id: str) -> "Chat | None":
    return get_engine().writing.chat(run_id)


def _is_answering(chat: "Chat | None") -> bool:
    return chat is not None and not chat.done


def _draw_question(run_id: str, checkpoints: list[CheckpointInfo], has_adapter: bool, answering: bool) -> None:
    with st.form("ft_chat", border=False):
        st.text_input("Question", key=_QUESTION, value="What is the capital of France?", persist_state="session")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            if has_adapter:
                st.slider(
                    "Strength of the adapter", 0.0, 1.5, 1.0, 0.05, key=_SCALE, persist_state="session", width=260,
                    help="0 is the base model, 1 as it was trained, more is more of the same, until it breaks.",
                )  # fmt: skip
            st.slider(
                "Temperature", 0.0, 1.5, 0.0, 0.05, key=_TEMPERATURE, persist_state="session", width=200,
                help="0: always the likeliest token, so that only the tuning makes a difference.",
            )  # fmt: skip
            st.number_input("Longest answer (tokens)", 1, LONGEST, 48, key=_LENGTH, persist_state="session", width=170)
            draw_states(checkpoints, "State", key=STEP_KEY, help="Which checkpoint answers.", width=150)
            st.form_submit_button("Ask", type="primary", disabled=answering, on_click=_ask, args=(run_id,))


def _ask(run_id: str) -> None:
    """Hand the question to the engine. For callbacks."""

    def ask() -> None:
        from lab.models.sampling import Sampling  # here: it brings torch along, and the page must paint without

        state = st.session_state
        sampling = Sampling(temperature=state[_TEMPERATURE], max_new_tokens=int(state[_LENGTH]), seed=0)
        step = chosen_state(list_checkpoints(find_run(run_id)), key=STEP_KEY)
        get_engine().writing.ask(run_id, step, state[_QUESTION], sampling, state.get(_SCALE, 1.0))

    attempt(ask)


def _draw_answers(run_id: str, has_adapter: bool, answering_when_drawn: bool) -> None:
    chat = _newest(run_id)
    if _is_answering(chat) != answering_when_drawn:
        st.rerun()  # once: how often to look is chosen on a full run
    if chat is None:
        st.caption(
            "Both models answer here, each token coloured by how much the tuning changed what could stand there."
        )
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{plain(chat.question)}**", width="content")
        if not chat.done:
            st.button("Stop", key="ft_chat_stop", on_click=get_engine().writing.stop_chat, args=(run_id,))
    tuned = f"Fine-tuned, strength {chat.scale:g}" if has_adapter else "Fine-tuned"
    left, right = st.columns(2, gap="large")
    with left:
        _draw_answer("Base", chat.base, begun=bool(chat.base or chat.tuned), chat=chat)
    with right:
        _draw_answer(tuned, chat.tuned, begun=bool(chat.tuned), chat=chat)
    if chat.error:
        st.error(plain(chat.error))
    at = f"Answered by the state of step {chat.step:,}. " if chat.step is not None else ""
    st.caption(
        f"{at}Colour: how differently base and fine-tuned would go on at this place (KL in nats, full colour from "
        f"{FULL_HEAT:g}). Without colour both agree. Point at a token for the figures."
    )


def _draw_answer(name: str, words: "list[Word]", *, begun: bool, chat: "Chat") -> None:
    st.caption(f"**{name}**")
    if words:
        token_strip(chips_of(words), key=f"ft_chat_{name.split(',')[0]}", height=260)
    elif begun or (chat.done and not chat.error and not chat.stop_asked):
        st.markdown("*It ends at once.*")
    elif not chat.done:
        st.caption("…")
