"""Letting the chosen model read a text: opening it, the capture, and the badge that says whether to trust it.

Models stand on the shelf of `lab.sessions`, captures in a small cache; pages hold names only. PyTorch is loaded when
the person first asks to look.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import streamlit as st

from app.ui import words
from app.ui.head_grid import thumbnails
from app.ui.messages import plain
from app.ui.model_choice import Choice
from app.ui.state import get_engine
from lab.errors import ModelError
from lab.store.looks import put_look

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lab.analysis.capture import Capture
    from lab.sessions import ModelSession

Made = TypeVar("Made")
Keep = Literal["all"] | Sequence[tuple[int, int]]
"""Whose weights a capture keeps: all heads', or those of chosen ones as (layer, head)."""

DEFAULT_TEXT = "Long live the king. The king is dead, long live the king."
MOST_WHOLE = 512
"""Tokens of which every head's weights are kept; of a longer text all figures, and the weights of one layer's heads."""
MOST_TOKENS = 4_096
BUDGET = 1 << 30
"""Bytes that one capture may take; predicted before it is made."""
_WORKING = 32
"""Bytes per weight of one layer that are taken while it is worked out: scores, softmax, figures (26 to 36 measured)."""
ALL_POINTS = ("pre_attn", "post_attn", "post_ffn", "delta_attn", "delta_ffn")
TEXT_KEY, LOOK_KEY = "text", "look"
"""Query parameters and session keys: what is read, and that the person has asked to look."""
_LONGEST_ADDRESS = 400
_PICTURE = "picture"


@dataclass(frozen=True)
class Look:
    """What one model did with one text."""

    title: str
    """The model, with its step."""
    text: str
    tokens: tuple[str, ...]
    """A label each, in which blanks can be seen."""
    capture: "Capture"
    note: str
    """What was left out, as a sentence; empty when all of it was read."""

    _made: dict[object, Any] = field(default_factory=dict, repr=False)

    def made_once(self, key: object, make: Callable[[], Made]) -> Made:
        """What takes seconds to work out of this look, kept as long as the look is."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def ids(self) -> "Tensor":
        return self.capture.ids

    @property
    def is_whole(self) -> bool:
        """Whether the weights of all heads are here; of a long text those of chosen heads are."""
        return bool(self.capture.attention)

    @property
    def kept_heads(self) -> "Sequence[tuple[int, int]]":
        """Heads whose weights are here, as (layer, head)."""
        if not self.is_whole:
            return list(self.capture.heads)
        return [(layer, head) for layer in range(self.capture.n_layers) for head in range(self.n_heads)]

    @cached_property
    def figures(self) -> dict[str, "NDArray[np.float64]"]:
        """Every figure of every head: name -> [layer, head]."""
        from lab.analysis.heads import head_stats

        stats: Mapping[str, Tensor]
        if self.is_whole:
            stats = head_stats(self.capture.attention, self.ids, windows=self.capture.windows)
        else:
            stats = {name: values for name, values in self.capture.summary.items() if name != _PICTURE}
        return {name: values.double().cpu().numpy() for name, values in stats.items()}

    @cached_property
    def pictures(self) -> "NDArray[np.uint8]":
        """A small picture of each head: [layer, head, size, size]."""
        if self.is_whole:
            return thumbnails(self.capture.attention)
        return self.capture.summary[_PICTURE].cpu().numpy()

    def pattern(self, layer: int, head: int) -> "NDArray[np.float32]":
        """One head's weights: [query_pos, key_pos]."""
        return self.capture.pattern(layer, head)[0].float().cpu().numpy()

    def mean_pattern(self, layer: int) -> "NDArray[np.float32]":
        """The mean over a layer's heads: [query_pos, key_pos]."""
        if self.is_whole:
            return self.capture.attention[layer][0].float().mean(0).cpu().numpy()
        return sum(self.pattern(layer, head) for head in range(self.n_heads)) / self.n_heads

    @property
    def n_heads(self) -> int:
        return self.figures["entropy"].shape[1]

    @property
    def file_name(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.title)

    @property
    def text_name(self) -> str:
        """Tells texts apart in the record: its beginning and a hash."""
        return f"{self.text[:40]} #{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


def ask_for_text() -> str | None:
    """The text box and its button; None until the person has asked to look."""
    if LOOK_KEY in st.query_params:
        st.session_state[LOOK_KEY] = True
    if (named := st.query_params.get(TEXT_KEY)) is not None:
        st.session_state.setdefault(TEXT_KEY, named)
    text = st.text_area(
        "Text", value=st.session_state.get(TEXT_KEY, DEFAULT_TEXT), key="look_text", height=72,
        persist_state="session", max_chars=20_000,
        help="The model reads it; nothing is trained. Repeats show induction, names show where a fact is looked up.",
    )  # fmt: skip
    if not st.session_state.get(LOOK_KEY):
        st.button("Look inside", type="primary", key="look_button", on_click=_asked)
        st.caption("Opening a model loads PyTorch once, which takes a few seconds.")
        return None
    st.session_state[TEXT_KEY] = text
    st.query_params[LOOK_KEY] = "1"
    if len(text) <= _LONGEST_ADDRESS:
        st.query_params[TEXT_KEY] = text
    else:
        st.query_params.pop(TEXT_KEY, None)
    if not text.strip():
        st.info("The box is empty: type at least one word for the model to read.")
        st.stop()
    return text


def _asked() -> None:
    st.session_state[LOOK_KEY] = True


def open_model(choice: Choice) -> "ModelSession":
    """The session, loaded now or before.

    Raises:
        LabError: it cannot be opened here.
    """
    with st.spinner(f"Opening {plain(choice.title)} …", show_time=True):
        from lab.sessions import shelf  # PyTorch loads here

        bar = st.empty()

        def tell(what: str, done: int, total: int) -> None:
            share = done / max(total, 1)
            bar.progress(share, text=f"Opening {plain(choice.title)}: {what}, {share:.0%}")

        session = shelf.get(choice.ref, precision=choice.precision, tell=tell)  # type: ignore[arg-type]
        bar.empty()
        return session


def look_at(choice: Choice, text: str, *, points: tuple[str, ...] = (), layer: int | None = None) -> Look:
    """Let the model read.

    Args:
        points: of the stream, to keep beside its course from block to block.
        layer: whose heads' weights are kept when the text is too long to keep all.

    Raises:
        LabError: the model cannot be opened or must not be shown, or the text holds nothing it can read.
    """
    session = open_model(choice)
    there = session.ids(text).shape[-1]
    whole = there <= MOST_WHOLE and _bytes(session, there, points, "all") <= BUDGET
    with st.spinner("Reading …", show_time=True):
        look = _look(session.ref, choice.precision, text, points, choice.title, whole, None if whole else layer)
    if not look.capture.check.ok:
        raise ModelError(look.capture.check.sentence)
    return look


@st.cache_resource(max_entries=4, show_spinner=False)
def _look(
    ref: str, precision: str, text: str, points: tuple[str, ...], title: str, whole: bool, layer: int | None
) -> Look:
    """Everything that decides the answer is an argument: those are the cache's key."""
    from lab.sessions import shelf

    session = shelf.get(ref, precision=precision)  # type: ignore[arg-type]
    ids = session.ids(text)
    there, n_heads = ids.shape[-1], session.anatomy.n_heads
    keep: Keep = "all" if whole else [] if layer is None else [(layer, head) for head in range(n_heads)]
    most = min(MOST_TOKENS, session.anatomy.context_length)
    while most > 16 and _bytes(session, min(most, there), points, keep) > BUDGET:
        most = most * 3 // 4
    ids = ids[:, :most]
    capture = session.capture(ids, points=points, logits="last", keep=keep, summarise=_summarise)
    labels = tuple(session.tokenizer.label(int(token)) for token in ids[0])
    look = Look(title, text, labels, capture, _note(there, most, session.anatomy.context_length, layer))
    if capture.check.ok:
        _store(look, session, stream=bool(points))
    return look


def _note(there: int, most: int, context: int, layer: int | None) -> str:
    said = []
    if there > most:
        why = "as many as the model reads" if most == context else "as many as can be shown"
        said.append(f"The first {most:,} of {there:,} tokens were read: {why}.")
    if layer is not None:
        said.append(
            f"A long text: every head has its figures and small picture; the weights are those of layer {layer}."
        )
    return " ".join(said)


def _bytes(session: "ModelSession", length: int, points: tuple[str, ...], keep: "Keep") -> int:
    """What a capture of so many tokens takes: what it keeps, and what the model needs for a layer meanwhile."""
    from lab.analysis.capture import predicted_bytes

    kept = predicted_bytes(session.anatomy, 1, length, points=points, keep=keep, logits="last")
    return kept + (0 if keep == "all" else _WORKING * session.anatomy.n_heads * length**2)


def _summarise(weights: "Tensor", ids: "Tensor", window: int | None) -> "Mapping[str, Tensor]":
    """The figures of a layer's heads, and the small picture of each."""
    from torch import from_numpy

    from lab.analysis.heads import head_stats

    stats = head_stats([weights], ids, windows=[window])
    return {name: values[0] for name, values in stats.items()} | {_PICTURE: from_numpy(thumbnails([weights])[0])}


def _store(look: Look, session: "ModelSession", *, stream: bool) -> None:
    """The figures go into the record, so that SQL can ask about them; one row set per model, step and text."""
    from torch import from_numpy

    from lab.analysis.heads import as_rows
    from lab.analysis.residual import layer_rows

    database = get_engine().database
    key = {"model": session.ref, "step": session.step, "text": look.text_name}
    put_look(
        database,
        "head_stats",
        session.run_id,
        key,
        as_rows({name: from_numpy(values) for name, values in look.figures.items()}),
    )
    if stream:
        put_look(database, "layer_stats", session.run_id, key, layer_rows(look.capture.residual))


def draw_badge(look: Look, facts: dict[str, Any], more: Callable[[], None]) -> None:
    """That the numbers were checked on this very model and text, with the errors; and what the model is.

    Args:
        more: draws what else stands in this line.
    """
    check = look.capture.check
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{plain(look.title)}**", width="content")
        st.badge(f"checked, largest error {max(c.measured for c in check if c.threshold > 0):.1g}", color="green")
        with st.popover("What was checked", type="tertiary"):
            st.markdown("\n".join(f"- {plain(str(one))}" for one in check))
            st.caption("Thresholds follow from the rounding of the model's numbers. Above one, nothing is drawn.")
        more()
        st.markdown(":gray[" + " · ".join(f"{name} {value}" for name, value in facts.items()) + "]", width="content")
    if look.note:
        st.caption(look.note)


def model_facts(session: "ModelSession") -> dict[str, Any]:
    """For the line beside the badge."""
    parts = session.anatomy
    heads = f"{parts.n_heads}" if parts.n_heads == parts.n_kv_heads else f"{parts.n_heads} on {parts.n_kv_heads} KV"
    facts = {"layers": parts.n_layers, "heads": heads, "width": parts.d_model, "precision": session.precision}
    return {**facts, "memory": words.data(session.bytes)}
