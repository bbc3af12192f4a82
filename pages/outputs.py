"""Outputs: what runs left on disk to be taken along, with its size and its proof."""

import streamlit as st

from app.ui import words
from app.ui.navigation import link
from app.ui.outputs_list import KINDS, draw_output, outputs
from lab.finetuning.outputs import Kind

st.title("Outputs", anchor=False, help="Checkpoints stand with their run; here is what other programs can use.")
chosen: list[Kind] = st.pills(
    "Show", list(KINDS), default=list(KINDS), selection_mode="multi", format_func=KINDS.__getitem__,
    key="outputs_kinds", persist_state="session", label_visibility="collapsed",
)  # fmt: skip
found = outputs(tuple(chosen))
if not found:
    st.markdown("Adapters, exported models with their certificates, and captures you kept are listed here.")
    st.info("There is nothing yet. Fine-tune a model, then export it; or keep a capture on Attention or Probing.")
    link("fine_tuning", "Fine-tune a model")
    st.stop()
st.caption(f"{len(found)} on disk, {words.data(sum(one.bytes for one in found))} together.")
for one in found:
    draw_output(one)
