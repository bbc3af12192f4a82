"""The memory of the run that the form would start: one step replayed, laid beside this machine and 16 GB."""

import altair as alt
import pandas as pd
import streamlit as st

from app.ui import words
from app.ui.finetuning_preview import preview_of
from app.ui.memory_panel import COLOURS, SIGNS, gib
from app.ui.messages import speaking
from lab.config import FineTuneConfig
from lab.forecast.budget import gpu_budget, this_device
from lab.forecast.finetune_config import FineTuneNeed, finetune_need
from lab.forecast.rules import Device

NAMES = {
    "weights": "frozen weights",
    "quantisation_state": "scales of 4-bit weights",
    "adapters": "adapter",
    "optimizer": "optimizer",
    "gradients": "gradients",
    "activations": "activations",
    "weight_copies": "copies of weights",
    "logits": "scores over the vocabulary",
    "temporary": "temporary",
}
"""Kinds of memory as a person says them."""


def draw_memory(config: FineTuneConfig | None) -> None:
    """The fold; it is worked out when it is opened."""
    if config is None:
        return
    fold = st.expander("Memory before you start", icon=":material/memory:", key="ft_memory", on_change="rerun")
    with fold, speaking():
        if fold.open:
            _draw(config)


@st.cache_data(max_entries=32, show_spinner="Replaying one step without weights …")
def need_of(config_json: str, device: Device, longest: int) -> FineTuneNeed | None:
    """
    Raises:
        LabError: the model is named wrongly.
    """
    return finetune_need(FineTuneConfig.model_validate_json(config_json), device, longest=longest)


def parts_figure(need: FineTuneNeed) -> alt.Chart:
    """What the peak is spent on."""
    parts = [(NAMES.get(kind, kind), size) for kind, size in need.kinds.items() if size]
    parts += [(f"{part.name} (modelled)", part.bytes) for part in need.modelled]
    data = pd.DataFrame(parts, columns=["part", "bytes"]).assign(GiB=lambda table: table["bytes"] / 2**30)
    return (
        alt.Chart(data)
        .mark_bar()
        .encode(
            alt.X("GiB:Q", title="GiB at the peak"),
            alt.Y("part:N", title=None, sort="-x"),
            tooltip=["part", alt.Tooltip("GiB:Q", format=".3f")],
        )
        .properties(height=alt.Step(22))
    )


def _draw(config: FineTuneConfig) -> None:
    longest = max(preview_of(config.model_dump_json()).lengths, default=config.data.max_length)
    here: Device = "cuda" if config.compute.device == "cuda" else "cpu"
    found = need_of(config.model_dump_json(), here, longest)
    on_gpu = need_of(config.model_dump_json(), "cuda", longest)
    if found is None or on_gpu is None:
        st.caption(
            "Known in advance for LoRA beside ordinary and beside 4-bit weights. When all weights train, each takes 16 "
            "bytes, and activations come on top."
        )
        return
    budgets = ((found, this_device(here), "This computer"), (on_gpu, gpu_budget(), "A GPU with 16 GB"))
    for column, (need, budget, name) in zip(st.columns(2), budgets, strict=True):
        verdict = need.verdict(budget)
        with column, st.container(horizontal=True, vertical_alignment="center"):
            st.metric(name, gib(need.total_bytes), width="content")
            left = f"{gib(abs(verdict.margin_bytes))} {'to spare' if verdict.fits else 'missing'}"
            st.badge(f"{SIGNS[verdict.colour]}, {left}", color=COLOURS[verdict.colour])  # type: ignore[arg-type]
    st.altair_chart(parts_figure(found), width="stretch")
    st.caption(
        f"The most tensors are alive in the {found.phase}, with {config.train.batch_size:,} rows of "
        f"{found.length:,} tokens side by side (the longest row decides). To save: a smaller batch with more "
        "accumulation, gradient checkpointing, 4 bits (qlora), a shorter length. "
        f"Modelled, not replayed: {', '.join(f'{part.name} {words.data(part.bytes)}' for part in found.modelled)}."
    )
