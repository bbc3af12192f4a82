"""Asking base and tuned, side by side, with the adapter turned up and down."""

import streamlit as st

from app.ui.messages import speaking
from app.ui.token_strip import Chip, token_strip
from lab.config import FineTuneConfig
from lab.data.tokenizers import visible
from lab.models.adapters import precision_of_run
from lab.models.checkpoints import list_checkpoints
from lab.rundir import find_run

_ANSWERS = "ft_chat_answers"
LONGEST = 400
FULL_HEAT = 3.0
"""Nats of KL at which a token has its full colour."""


def draw_chat(run_id: str) -> None:
    """The question, the adapter's strength, and both answers."""
    checkpoints = list_checkpoints(find_run(run_id))
    if not checkpoints:
        st.caption("The model can be asked from its first evaluation on, when its first state is kept.")
        return
    steps = [info.step for info in reversed(checkpoints)]
    with st.form("ft_chat", border=False):
        question = st.text_input(
            "Question", key="ft_chat_question", value="What is the capital of France?", persist_state="session"
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            scale = st.slider(
                "Strength of the adapter", 0.0, 1.5, 1.0, 0.05, key="ft_chat_scale", persist_state="session", width=260,
                help="0 is the base model, 1 as it was trained, more is more of the same, until it breaks.",
            )  # fmt: skip
            temperature = st.slider(
                "Temperature", 0.0, 1.5, 0.0, 0.05, key="ft_chat_temperature", persist_state="session", width=200,
                help="0: always the likeliest token, so that only the adapter makes a difference.",
            )  # fmt: skip
            length = st.number_input(
                "Longest answer (tokens)", 1, LONGEST, 48, key="ft_chat_length", persist_state="session", width=170
            )
            step = st.selectbox("State", steps, key=f"ft_chat_step_{run_id}", format_func="step {:,}".format, width=150)
            asked = st.form_submit_button("Ask", type="primary")
    if asked and question.strip():
        with speaking(), st.spinner("Base and fine-tuned answer …"):
            st.session_state[_ANSWERS] = (run_id, answers(run_id, step, question, scale, temperature, int(length)))
    kept = st.session_state.get(_ANSWERS)
    if kept is None or kept[0] != run_id:
        st.caption(
            "Both models answer here, each token coloured by how much the adapter changed what could stand there."
        )
        return
    _draw_answers(kept[1])


Answers = dict[str, list[Chip]]
"""The tokens of each answer, by what stands over it."""


def answers(run_id: str, step: int, question: str, scale: float, temperature: float, length: int) -> Answers:
    """Both answers.

    Raises:
        LabError: the model cannot be opened, or cannot read the question.
    """
    from lab.finetuning.chat import Reply, reply
    from lab.finetuning.formats import Turn
    from lab.models.sampling import Sampling
    from lab.sessions import shelf

    run = find_run(run_id)
    config = run.config_as(FineTuneConfig)
    sampling = Sampling(temperature=temperature, max_new_tokens=length, seed=0)
    turns, template = (Turn("user", question),), config.data.chat_template
    precision = precision_of_run(run)
    tuned = shelf.get(f"{run_id}@{step}", precision=precision)
    if config.has_adapter:
        before = reply(tuned, turns, sampling, scale=0.0, template=template)
        after = reply(tuned, turns, sampling, scale=scale, template=template)
    else:
        before = reply(shelf.get(config.model.model, precision=precision), turns, sampling, template=template)
        after = reply(tuned, turns, sampling, template=template)

    def shown(one: Reply) -> list[Chip]:
        return [
            Chip(
                visible(word.text),
                "plain",
                min(1.0, word.kl / FULL_HEAT),
                f"KL {word.kl:.2f} nats; this token: {word.probability:.1%}, by the base {word.base_probability:.1%}",
            )
            for word in one.words
        ]

    name = f"Fine-tuned, strength {scale:g}" if config.has_adapter else "Fine-tuned"
    return {"Base": shown(before), name: shown(after)}


def _draw_answers(found: Answers) -> None:
    for column, (name, chips) in zip(st.columns(len(found), gap="large"), found.items(), strict=True):
        with column:
            st.caption(f"**{name}**")
            if chips:
                token_strip(chips, key=f"ft_chat_{name.split(',')[0]}", height=260)
            else:
                st.markdown("*It ends at once.*")
    st.caption(
        "Colour: how differently base and fine-tuned would go on at this place (KL in nats, full colour from "
        f"{FULL_HEAT:g}). Without colour both agree. Point at a token for the figures."
    )
