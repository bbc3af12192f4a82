"""Export with proof: write the model for other programs, load it again, and show how well it agrees."""

from typing import Literal

import streamlit as st

from app.ui import words
from app.ui.messages import plain, speaking
from lab.config import FineTuneConfig
from lab.finetuning.export import NUMBERS, Export, Format, Numbers, export_run, exports_of
from lab.models.checkpoints import list_checkpoints
from lab.rundir import find_run

FORMATS: dict[Format, str] = {
    "adapter": "Adapter (for peft)",
    "merged": "Merged (for transformers)",
    "gguf": "GGUF (for llama.cpp)",
}
COLOURS: dict[str, Literal["green", "blue", "red"]] = {
    "equivalent": "green",
    "close": "blue",
    "not equivalent": "red",
}


def draw_exports(run_id: str) -> None:
    """What to write, and what was written."""
    run = find_run(run_id)
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        st.caption("A state of the run can be exported from its first evaluation on.")
        return
    config = run.config_as(FineTuneConfig)
    formats = [one for one in FORMATS if config.has_adapter or one != "adapter"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        format: Format = st.selectbox(
            "Format", formats, format_func=FORMATS.__getitem__, key="ft_export_format", width=240,
            help="Adapter: a few MiB, to be put beside the base model. Merged: one model of full size. GGUF: one file "
            "for llama.cpp and its relatives, for the Llama family.",
        )  # fmt: skip
        numbers: Numbers = st.selectbox(
            "Numbers", NUMBERS[format], key=f"ft_export_{format}_numbers", width=120,
            help="Of the weights in the file. Fewer bits: a smaller file and a coarser model; the comparison says how "
            "much.",
        )  # fmt: skip
        into: Literal["trained", "original"] = "trained"
        if config.model.method in ("qlora", "lora_8bit") and format != "adapter":
            into = st.selectbox(
                "Added to", ["trained", "original"], key="ft_export_into", width=150,
                help="trained: the coarse weights it was trained beside, which is the model you know. original: the "
                "finer weights from before, which is another one.",
            )  # fmt: skip
        steps = [info.step for info in reversed(checkpoints)]
        step = st.selectbox("State", steps, format_func="step {:,}".format, key=f"ft_export_step_{run_id}", width=140)
        pressed = st.button("Export and prove", type="primary", key="ft_export")
    if pressed:
        with speaking(), st.status("Exporting …") as status:
            export_run(
                run, format, step=step, numbers=numbers, into=into, tell=lambda what: status.update(label=f"{what} …")
            )
            status.update(label="Exported and compared.", state="complete")
    made = exports_of(run)
    if not made:
        st.caption("After writing, the file is loaded again and asked the same prompts as the trained model.")
    for one in made:
        draw_export(one)


def draw_export(one: Export) -> None:
    """One export with its proof."""
    proof = one.certificate
    found = proof["comparison"]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            title = f"**{FORMATS[proof['format']]}** · {proof['number_format']} · step {proof['step']:,}"
            st.markdown(f"{title} · {words.data(one.bytes)}", width="content")
            st.badge(proof["verdict"], color=COLOURS[proof["verdict"]])
        st.caption(
            f"KL {found['kl_mean']:.2g} nats (largest {found['kl_max']:.2g}; up to {proof['threshold_kl']:g} is asked "
            f"for) · same likeliest token at {found['top1']:.1%} of {found['places']:,} places · compared with "
            f"{plain(proof['reference'])}"
            + (f" · added to {plain(proof['merged_into'])}" if proof["merged_into"] else "")
            + ("" if proof["tokens_agree"] in (None, True) else " · **its tokenizer reads some prompts otherwise**")
        )
        st.code(str(one.folder), language=None)
