"""Exactly what the model will see: the rows as tokens, which of them are learnt, where an answer ends."""

from collections.abc import Sequence

import altair as alt
import pandas as pd
import streamlit as st

from app.ui import words
from app.ui.memory_panel import text_colour
from app.ui.messages import plain, sentences, show_mistakes
from app.ui.token_strip import Chip, Kind, token_strip
from lab.config import FineTuneConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import LabError
from lab.finetuning.base import find_base
from lab.finetuning.capacity import SOURCE, Capacity, capacity
from lab.finetuning.datasets import DataLook, divided, look
from lab.finetuning.examples import Example
from lab.finetuning.trainable import adapted_layers, trainable_weights

ROW_KEY = "ft_preview_row"
_MOST_CHIPS = 1_500


def draw_preview(config: FineTuneConfig | None, *, expanded: bool = False) -> None:
    """The fold on the page.

    Args:
        config: what the form says; None while it has mistakes.
    """
    if config is None:
        return
    fold = st.expander(
        "What the model will see", icon=":material/visibility:", expanded=expanded, key="ft_preview", on_change="rerun"
    )
    if not fold.open:
        return
    with fold:
        try:
            seen = preview_of(config)
        except LabError as error:
            show_mistakes(sentences(error))
            return
        _draw(seen, config)


def estimated_capacity(config: FineTuneConfig, seen: DataLook) -> Capacity | None:
    """The rule of thumb before anything is loaded; None where the trainable weights cannot be counted in advance."""
    if not config.has_adapter:
        return None
    count = trainable_weights(config)
    labels = sum(example.n_labels for example in seen.examples)
    return None if count is None else capacity(count, round(labels * (1 - config.data.val_fraction)))


def preview_of(config: FineTuneConfig) -> DataLook:
    """The data set under this config. Kept as it is: nobody changes it.

    Raises:
        LabError: there is no such model or data set, or nothing of it can be read.
    """
    usual = FineTuneConfig()
    read = usual.model_copy(  # nothing else changes how rows are read
        update={
            "model": usual.model.model_copy(update={"model": config.model.model}),
            "data": config.data,
            "train": usual.train.model_copy(update={"seed": config.train.seed}),
        }
    )
    return _preview_of(read.model_dump_json())


@st.cache_resource(max_entries=4, show_spinner="Reading the rows …")
def _preview_of(config_json: str) -> DataLook:
    config = FineTuneConfig.model_validate_json(config_json)
    return look(config, find_base(config.model.model).tokenizer)


def chips_of(example: Example, tokenizer: Tokenizer, end: Sequence[int], max_length: int) -> list[Chip]:
    """The tokens of a row. The end of an answer stands out; what lies beyond the length is struck through."""
    chips = []
    for place, (token, is_learnt) in enumerate(zip(example.ids, example.learn, strict=True)):
        is_end = is_learnt and len(end) == 1 and token == end[0]
        kind: Kind = "cut" if place >= max_length else "end" if is_end else "learnt" if is_learnt else "plain"
        said = {"cut": "cut off", "end": "learnt: the end of the answer", "learnt": "learnt", "plain": "read only"}
        chips.append(Chip(tokenizer.label(token), kind, None, f"token {place + 1:,}, id {token}: {said[kind]}"))
    return chips[:_MOST_CHIPS]


def length_figure(lengths: Sequence[int], max_length: int, text: str) -> alt.LayerChart | alt.FacetChart:
    """How many rows have which length, and where they would be cut.

    Args:
        text: the theme's colour of text, which Vega does not take by itself.
    """
    data = pd.DataFrame({"tokens": lengths})
    bars = alt.Chart(data).mark_bar().encode(
        alt.X("tokens:Q", bin=alt.Bin(maxbins=40), title="tokens in a row"), alt.Y("count():Q", title="rows")
    )  # fmt: skip
    cut = (
        alt.Chart(pd.DataFrame({"tokens": [max_length]}))
        .mark_rule(strokeDash=[5, 3], color=text)
        .encode(alt.X("tokens:Q"))
    )
    return alt.layer(bars, cut).properties(height=150)


# -- inside -----------------------------------------------------------------------------------------------


def _draw(seen: DataLook, config: FineTuneConfig) -> None:
    show_mistakes(seen.mistakes)
    if not seen.examples:
        return
    tokens, labels = sum(seen.lengths), sum(example.n_labels for example in seen.examples)
    parts = [
        f"{len(seen.examples):,} rows, format **{seen.format}**",
        f"written with {'the model’s own' if seen.frame.name == 'model' else 'the lab’s plain'} template",
        f"{words.count(tokens)} tokens, {labels / tokens:.0%} of them learnt",
        f"longest row {max(seen.lengths):,} tokens",
    ]
    if not seen.mistakes:
        report = divided(seen).report
        parts.append(f"{report.train_rows:,} to learn from, {report.val_rows:,} to validate with")
        if report.same_rows:
            parts.append(f"{report.same_rows:,} say the same as another and stand on its side")
        parts += [plain(note) for note in report.notes]
    st.caption(" · ".join(parts))
    numbers = [example.row for example in seen.examples]
    st.session_state.setdefault(ROW_KEY, numbers[0])
    if st.session_state[ROW_KEY] not in numbers:
        st.session_state[ROW_KEY] = numbers[0]
    left, right = st.columns([3, 2], gap="large")
    with left:
        number = st.selectbox(
            "Row", numbers, key=ROW_KEY, format_func=lambda row: f"row {row:,} of the file", width=220,
            help="Any row can be looked at; begin to type its number.",
        )  # fmt: skip
        example = seen.examples[numbers.index(number)]
        tokenizer = find_base(config.model.model).tokenizer
        token_strip(chips_of(example, tokenizer, seen.frame.end, seen.max_length), key="ft_preview_strip", height=260)
        st.caption(
            "Coloured tokens are learnt, the underlined one ends the answer; grey ones are read only. Struck through: "
            "beyond the length. Point at a token for its number."
        )
    with right:
        st.altair_chart(length_figure(seen.lengths, seen.max_length, text_colour()), width="stretch")
        st.caption("Lengths of all rows; the dashed line is where they would be cut.")
        layers = adapted_layers(config)
        if layers:
            parts = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in layers})
            st.caption(f"**Adapters** beside {len(layers):,} layers: {plain(', '.join(parts))}.")
        found = estimated_capacity(config, seen)
        if found is not None:
            st.caption(f"**Room in the adapter.** {found.sentence}", help=SOURCE)
