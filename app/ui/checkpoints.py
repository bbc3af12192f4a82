"""The states of a run on disk: look at them, write from one, fork one, delete one."""

from datetime import datetime

import streamlit as st

from app.ui import finetuning_settings, generation, words
from app.ui.actions import ask
from app.ui.form_settings import begin_fork
from app.ui.open_links import open_links
from lab.models.checkpoints import CheckpointInfo

SHOWN = 30
KINDS = {
    "final": "final: the run's end",
    "kept": "kept: periodic",
    "saved": "saved by hand",
    "resume": "rolling: what Resume goes on from",
}


def draw_checkpoints(run_id: str, checkpoints: list[CheckpointInfo], *, is_adapter: bool = False) -> None:
    """One line per checkpoint, newest first.

    Args:
        is_adapter: of a fine-tuning: it holds what trains, and there is no box above that could write from it.
    """
    if not checkpoints:
        st.caption("None yet. The first state is kept at the first evaluation, the final one at the end.")
        return
    total = sum(info.bytes for info in checkpoints)
    holds = (
        "what trains, optimizer state and the place in the rows"
        if is_adapter
        else ("weights, optimizer state and the place in the text")
    )
    st.caption(
        f"{len(checkpoints)} on disk, {words.data(total)} together. Each holds {holds}. Periodic ones are off unless "
        "you ask for them under Advanced; Save now makes one at any time."
    )
    for info in list(reversed(checkpoints))[:SHOWN]:
        _draw_line(run_id, info, is_adapter)
    if len(checkpoints) > SHOWN:
        st.caption(f"The newest {SHOWN} are shown.")


def _draw_line(run_id: str, info: CheckpointInfo, is_adapter: bool) -> None:
    key = f"{run_id}_{info.step}"
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.markdown(f"**step {info.step:,}**", width=110)
        st.markdown(validation_words(info.val_loss), width=140)
        st.markdown(f":gray[{words.data(info.bytes)}]", width=90)
        st.markdown(f":gray[{KINDS[info.kind]}, {words.ago(datetime.fromisoformat(info.created_at))}]", width="stretch")
        pressed = not is_adapter and st.button(
            "Write from it",
            key=f"from_{key}",
            on_click=choose_for_generation,
            args=(info.step,),
            type="tertiary",
            help="Chooses it in the box above.",
        )
        pressed |= st.button(
            "Fork",
            key=f"fork_{key}",
            on_click=finetuning_settings.begin_fork if is_adapter else begin_fork,
            args=(run_id, info.step),
            type="tertiary",
            help="A new run that goes on from here with other settings: fills the form on the left.",
        )
        open_links(run_id, info.step, short=True)
        with st.popover("Delete", type="tertiary", disabled=info.kind == "resume"):
            st.markdown(f"Delete the checkpoint of step {info.step:,} ({words.data(info.bytes)}) for good?")
            arguments = ("delete_checkpoint", run_id, info.step)
            pressed |= st.button("Delete it", key=f"delete_{key}", on_click=ask, args=arguments)
    if pressed:
        st.rerun()  # the whole page: the form and the generation box stand outside this part


def validation_words(loss: float | None) -> str:
    return "not evaluated" if loss is None else f"validation {words.loss(loss)}"


def choose_for_generation(step: int) -> None:
    """Let the generation box write from this step. For callbacks."""
    st.session_state[generation.STEP_KEY] = step
