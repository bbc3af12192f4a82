"""What the knobs of the Pretraining form mean together, as text and tables."""

from collections.abc import Mapping

import streamlit as st

from app.ui import words
from app.ui.figures import Figures, TextSize
from lab.config import PretrainConfig


def draw_figures(config: PretrainConfig, text: TextSize, found: Figures) -> None:
    """What the knobs mean together."""
    about = "" if text.exact else "about "
    lines = [
        f"**Effective batch** {words.count(found.sequences_per_step)} sequences "
        f"= {words.count(found.tokens_per_step)} tokens"
    ]
    if found.steps is not None and found.epochs is not None and found.total_tokens is not None:
        steps = "" if config.train.max_steps is not None else f"{words.count(found.steps)} steps, "
        lines.append(
            f"**Reads** {steps}{words.count(found.total_tokens)} tokens = {about}{words.epochs(found.epochs)} epochs"
        )
    lines.append(f"**Parameters** {words.count(found.parameters['total'])}")
    if found.seconds is not None:
        lines.append(f"**Time** about {words.duration(found.seconds)} ({found.basis})")
    st.caption("  \n".join(lines))


def draw_parts(config: PretrainConfig, found: Figures) -> None:
    """Parameters by part, and the bytes that stay."""
    with st.popover("Parameters and bytes", type="tertiary"):
        st.markdown(parameter_table(found.parameters, tied=config.model.tie_embeddings))
        st.markdown(memory_table(found.memory))
        st.caption(
            "Exact, and only these three: what stays in memory through the whole training. "
            "A step's activations and logits come on top."
        )


def parameter_table(parameters: Mapping[str, int], *, tied: bool) -> str:
    """Parameters by part as a Markdown table."""
    total = parameters["total"]
    rows = ["| Part | Parameters | Share |", "|---|---:|---:|"]
    for part, number in parameters.items():
        if part != "total":
            shared = " (tied to the token embedding)" if part == "output_layer" and tied else ""
            rows.append(f"| {part.replace('_', ' ').capitalize()}{shared} | {number:,} | {number / total:.0%} |")
    rows.append(f"| **Total** | **{total:,}** | |")
    return "\n".join(rows)


def memory_table(memory: Mapping[str, int]) -> str:
    """Bytes of what stays, as a Markdown table."""
    names = {"weights": "Weights", "gradients": "Gradients", "optimizer": "Optimizer state"}
    rows = ["| Stays in memory | Bytes | |", "|---|---:|---:|"]
    rows += [f"| {title} | {memory[name]:,} | {words.data(memory[name])} |" for name, title in names.items()]
    rows.append(f"| **Together** | **{memory['total']:,}** | {words.data(memory['total'])} |")
    return "\n".join(rows)
