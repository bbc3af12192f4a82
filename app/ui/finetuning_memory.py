"""The memory of the run that the form would start: one step replayed, laid beside this machine and 16 GB."""

import altair as alt
import pandas as pd
import streamlit as st

from app.ui import words
from app.ui.finetuning_preview import preview_of
from app.ui.finetuning_settings import finetuning_form
from app.ui.memory_figure import step_figure
from app.ui.memory_panel import COLOURS, SIGNS, gib, text_colour
from app.ui.messages import speaking
from lab.config import FineTuneConfig
from lab.finetuning.batches import Extent, pack
from lab.finetuning.examples import Example
from lab.forecast.budget import gpu_budget, this_device
from lab.forecast.finetune_config import FineTuneNeed, finetune_need, what_fits
from lab.forecast.rules import Device
from lab.training.memory import Change

NAMES = {
    "weights": "weights",
    "quantisation_state": "scales of packed weights",
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
def need_of(config_json: str, device: Device, extent: Extent | None) -> FineTuneNeed:
    """
    Raises:
        LabError: no training could start either; the sentence says why.
    """
    return finetune_need(FineTuneConfig.model_validate_json(config_json), device, extent)


@st.cache_data(max_entries=16, show_spinner="Looking for what would fit …")
def options_of(config_json: str, device: Device, extent: Extent | None, limit_bytes: int) -> list[Change]:
    """
    Raises:
        LabError: as `need_of`.
    """
    return what_fits(FineTuneConfig.model_validate_json(config_json), device, extent, limit_bytes)


def extent_of(config: FineTuneConfig) -> Extent | None:
    """Of the sequences that the rows make; None where there are none."""
    rows = [_cut(row, config.data.max_length) for row in preview_of(config.model_dump_json()).examples]
    if not rows:
        return None
    return Extent.of(pack(rows, config.data.max_length) if config.data.packing else [(row,) for row in rows])


def parts_figure(need: FineTuneNeed) -> alt.Chart:
    """What the peak is spent on."""
    parts = [(NAMES.get(kind, kind), size) for kind, size in need.kinds.items() if size]
    if need.checkpoint_bytes:
        parts.append(("copy for a checkpoint", need.checkpoint_bytes))
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
    extent = extent_of(config)
    here: Device = "cuda" if config.compute.device == "cuda" else "cpu"
    found, on_gpu = (need_of(config.model_dump_json(), device, extent) for device in (here, "cuda"))
    budgets = ((found, this_device(here), "This computer"), (on_gpu, gpu_budget(), "A GPU with 16 GB"))
    for column, (need, budget, name) in zip(st.columns(2), budgets, strict=True):
        verdict = need.verdict(budget)
        with column, st.container(horizontal=True, vertical_alignment="center"):
            st.metric(name, gib(need.total_bytes), width="content")
            left = f"{gib(abs(verdict.margin_bytes))} {'to spare' if verdict.fits else 'missing'}"
            st.badge(f"{SIGNS[verdict.colour]}, {left}", color=COLOURS[verdict.colour])  # type: ignore[arg-type]
    for need, budget, name in budgets:
        if not need.verdict(budget).fits:
            _draw_options(config, need.device, extent, budget.limit_bytes, name)
    st.altair_chart(step_figure(found, this_device(here), text_colour()), width="stretch")
    st.caption(
        f"One training step from left to right, with {config.train.batch_size:,} sequences of {found.extent.tokens:,} "
        f"tokens side by side, of which {found.extent.labels:,} are learnt: the longest rows decide. The most tensors "
        f"are alive in {found.peak.sentence}. Below, what that moment is spent on. {' '.join(found.notes)}"
    )
    st.altair_chart(parts_figure(found), width="stretch")
    st.caption(
        "To save: a smaller batch with more accumulation, gradient checkpointing, 4 bits (qlora), a shorter length. "
        f"Modelled, not replayed: {', '.join(f'{part.name} {words.data(part.bytes)}' for part in found.modelled)}."
    )


def _draw_options(config: FineTuneConfig, device: Device, extent: Extent | None, limit_bytes: int, name: str) -> None:
    st.markdown(f"**Fit me** · {name[0].lower()}{name[1:]}")
    options = options_of(config.model_dump_json(), device, extent, limit_bytes)
    if not options:
        st.caption("None of the usual savings is enough: take a smaller model.")
    for number, option in enumerate(options):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(option.sentence, width="stretch")
            st.button(
                "Use", key=f"ft_fit_{device}_{number}", on_click=finetuning_form().fill, args=(option.changes,),
                help="Puts this into the form.",
            )  # fmt: skip


def _cut(row: Example, tokens: int) -> Example:
    """As far as it is read."""
    return Example(row.ids[:tokens], row.learn[:tokens], row.row)
