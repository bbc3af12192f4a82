"""What would the model say if it stopped at this layer: the logit lens, and the tuned one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from app.ui.heatmaps import draw, layer_heatmap
from app.ui.looking import Look
from app.ui.words_of_looking import concept, export

if TYPE_CHECKING:
    from lab.analysis.lenses import LensResult
    from lab.analysis.tuned_lens import LensTraining
    from lab.sessions import ModelSession

LENS = {
    "probability": "Probability of its top token",
    "rank": "Rank of the final answer",
    "entropy": "Entropy (nats)",
    "divergence": "Distance from the final answer (KL, nats)",
}
SHORT = {"probability": "Probability", "rank": "Rank", "entropy": "Entropy", "divergence": "Distance"}
"""For a narrow screen; the scale beside the picture says it in full."""
MOST_COLUMNS = 20
"""That words are written into; in narrower cells the browser makes them smaller than anybody can read."""
MOST_LOGITS = 200_000_000
"""Rows × positions × vocabulary that are worked out: a few seconds."""
SECONDS = 60.0
_STEPS = 200
_TUNED = "tuned_lens"


def draw_lens(look: Look, session: "ModelSession") -> None:
    """Each layer × position: what would the model say if it stopped there?"""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        kind = st.segmented_control(
            "Lens", ["Logit lens", "Tuned lens"], default="Logit lens", required=True, key="lens_kind",
            persist_state="session", help="Logit: the model's own reader. Tuned: a translation is learned for each row "
            "first, on a piece of text, with the model frozen.",
        )  # fmt: skip
        figure_of = _choose_figure()
    lens = _tuned(session) if kind == "Tuned lens" else None
    if kind == "Tuned lens" and lens is None:
        return
    found, tokens = _read(look, session, lens)
    if len(tokens) < len(look.tokens):
        st.caption(f"The last {len(tokens)} of {len(look.tokens)} tokens: all of them would take too long.")
    ids, values = found.top_ids[:, 0, :, 0].cpu().numpy(), {
        "probability": found.top_probabilities[:, 0, :, 0],
        "rank": found.answer_rank[:, 0].double().log10(),
        "entropy": found.entropy[:, 0],
        "divergence": found.divergence[:, 0],
    }  # fmt: skip
    said = {int(token): session.tokenizer.label(int(token)) for token in np.unique(ids)}
    labels = np.vectorize(lambda token: said[int(token)], otypes=[object])(ids)
    names = ["embedding", *(f"after {layer}" for layer in range(look.capture.n_layers))]
    shown = values[figure_of].float().cpu().numpy()
    unit = "log10 of rank" if figure_of == "rank" else LENS[figure_of]
    figure = layer_heatmap(
        shown, tokens, unit=unit, rows=names, row_title="", column_title="token", low=0.0,
        text=labels, written=shown.shape[1] <= MOST_COLUMNS, height=max(320, 60 + 26 * len(names)),
    )  # fmt: skip
    draw(figure, key="lens", name=f"lens-{figure_of}-{look.file_name}")
    st.caption(
        "In each cell the likeliest next token, if this row were the last; the bottom row is the model's own answer"
        f"{'' if shown.shape[1] <= MOST_COLUMNS else ' (too many cells to write: point at one)'}. Look for "
        "the row from which the answer stands (rank 1 is 0 on the scale). Early rows were never trained to be read so: "
        f"noise there does not mean that they know nothing. {concept('lenses-and-probes')}"
    )
    row, position = np.indices(ids.shape)
    frame = pd.DataFrame(
        {
            "row": [names[i] for i in row.ravel()], "position": position.ravel(),
            "token": [tokens[i] for i in position.ravel()], "top_token": labels.ravel(),
            "top_probability": values["probability"].cpu().numpy().ravel(),
            "answer_rank": found.answer_rank[:, 0].cpu().numpy().ravel(),
            "entropy_nats": values["entropy"].cpu().numpy().ravel(),
        }
    )  # fmt: skip
    export(frame, name=f"lens-{look.file_name}", key="lens_csv")


def _choose_figure() -> str:
    return st.segmented_control(
        "Colour", list(LENS), format_func=lambda name: SHORT[name], default="probability", required=True,
        key="lens_colour", persist_state="session",
        help="Probability of the row's likeliest token; rank of the final answer; entropy of the row; how far what the "
        "row expects is from the final answer (KL).",
    ) or "probability"  # fmt: skip


def _read(look: Look, session: "ModelSession", lens: "LensTraining | None") -> "tuple[LensResult, tuple[str, ...]]":
    """The lens, and the tokens that it is about: the last ones where all would take long."""
    from lab.analysis.lenses import read_lens

    rows = look.capture.residual.stream
    most = max(16, MOST_LOGITS // (len(rows) * session.anatomy.vocab_size))
    translate = None if lens is None else lens.lens.translate
    with st.spinner("Reading every layer as if it were the last …", show_time=True), session.lock:
        found = look.made_once(
            ("lens", id(lens)), lambda: read_lens(session.anatomy, rows[:, :, -most:], top=1, translate=translate)
        )
    return found, look.tokens[-most:]


def _tuned(session: "ModelSession") -> "LensTraining | None":
    """The tuned lens of this model, trained when asked for; None until then."""
    kept = st.session_state.setdefault(_TUNED, {})
    if session.ref not in kept:
        if not st.button("Train the tuned lens (at most a minute)", type="primary", key="tune"):
            st.caption("For each row a matrix and an offset, trained until what it says is close to the final answer.")
            return None
        bar = st.progress(0.0, text="Training …")
        kept[session.ref] = _train(session, bar.progress)
        bar.empty()
    found: LensTraining = kept[session.ref]
    before, after = found.before[:-1].mean().item(), found.after[:-1].mean().item()
    st.caption(
        f"Distance from the model's own answer on text held out, mean over the rows: {before:.2f} nats with the logit "
        f"lens, {after:.2f} with the tuned one ({found.steps} steps of training). A tuned lens is trained, and a good "
        "guesser: it shows what can be predicted from a row."
    )
    return found


def _train(session: "ModelSession", show: Callable[..., Any]) -> "LensTraining":
    from lab.analysis.tuned_lens import corpus_streams, train_tuned_lens
    from lab.sessions.probing import corpus_tokens

    parts = session.anatomy
    with session.lock:
        batches = corpus_streams(parts, corpus_tokens(session), length=min(64, parts.context_length), batch_size=4)
        return train_tuned_lens(
            parts, batches, steps=_STEPS, seconds=SECONDS,
            progress=lambda done, total: show(done / total, text=f"Step {done} of at most {total}"),
        )  # fmt: skip
