"""Activation patching: through which place does the answer travel?"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from app.ui.heatmaps import draw, layer_heatmap
from app.ui.messages import plain, speaking
from app.ui.model_choice import Choice
from app.ui.probing_answers import token_id
from app.ui.words_of_looking import concept, export

if TYPE_CHECKING:
    from lab.analysis.patching import Patching
    from lab.sessions import ModelSession

POINTS = {
    "post_ffn": "stream after the layer", "pre_attn": "stream before the layer", "delta_attn": "what attention added",
    "delta_ffn": "what the feed-forward added",
}  # fmt: skip
EXAMPLES = {
    "world": ("The capital of France is", "The capital of Italy is", " Paris", " Rome"),
    "verse": ("Long live the king. Long live the k", "Long live the lord. Long live the l", "i", "o"),
}
_FOUND = "patching_found"


def draw_patching(session: "ModelSession", choice: Choice) -> None:
    """Two prompts that differ in one fact; each layer × position patched once."""
    example = EXAMPLES["verse" if choice.run_id else "world"]
    left, right = st.columns(2)
    with left:
        clean = st.text_input("Clean prompt", value=example[0], key=f"clean_{bool(choice.run_id)}")
        answer = st.text_input("Its answer", value=example[2], key=f"answer_{bool(choice.run_id)}",
                               help="One token; with its leading space where it has one.")  # fmt: skip
    with right:
        corrupted = st.text_input("Corrupted prompt, of as many tokens", value=example[1],
                                  key=f"corrupted_{bool(choice.run_id)}")  # fmt: skip
        other = st.text_input("Its answer", value=example[3], key=f"other_{bool(choice.run_id)}")
    point = st.segmented_control(
        "Patch", list(POINTS), format_func=lambda name: POINTS[name], default="post_ffn", required=True,
        key="patch_point", persist_state="session",
    )  # fmt: skip
    asked = (choice.ref, choice.precision, clean, corrupted, answer, other, point)
    if st.button("Patch each place", type="primary", key="patch", help="One pass for each layer and position."):
        bar = st.progress(0.0, text="Patching …")

        def tell(done: int, total: int) -> None:
            bar.progress(done / total, text=f"Layer {done} of {total}")

        with speaking():
            st.session_state[_FOUND] = (asked, *_patch(session, asked, tell))
        bar.empty()
    st.caption(
        "The model reads the corrupted prompt, with one vector taken from the clean one. 1: that place alone brings "
        f"the clean answer back; 0: it changes nothing. {concept('lenses-and-probes')}"
    )
    kept = st.session_state.get(_FOUND)
    if kept is not None and kept[0] == asked:
        with speaking():
            _draw_found(kept[1], kept[2], kept[3])


def _patch(
    session: "ModelSession", asked: tuple[Any, ...], tell: Callable[[int, int], None]
) -> tuple["Patching", list[str], list[str]]:
    from lab.analysis.patching import patch_everywhere

    _, _, clean, corrupted, answer, other, point = asked
    one, two = session.ids(clean)[0], session.ids(corrupted)[0]
    with session.lock:
        found = patch_everywhere(
            session.anatomy, one, two, token_id(session, answer), token_id(session, other), point=point, progress=tell
        )
    labels = [[session.tokenizer.label(int(token)) for token in ids] for ids in (one, two)]
    return found, labels[0], labels[1]


def _draw_found(found: "Patching", clean: list[str], corrupted: list[str]) -> None:
    restored = found.restored.numpy()
    names = [one if one == two else f"{one}→{two}" for one, two in zip(clean, corrupted, strict=True)]
    st.markdown(
        f"Clean prompt: answer ahead by **{found.clean:+.2f}** logits; corrupted: **{found.corrupted:+.2f}**. "
        f"Patched: {plain(POINTS[found.point])}."
    )
    high = max(1.0, float(np.abs(restored).max()))
    draw(layer_heatmap(restored, names, unit="restored", column_title="token", diverging=True, high=high),
         key="patching", name="patching")  # fmt: skip
    st.caption(
        "Follow the red: at first only the changed word matters, at the end only the last token; in between you see "
        "where the fact moves over. Values above 1 or below 0 are possible."
    )
    layer, position = np.indices(restored.shape)
    frame = pd.DataFrame(
        {
            "layer": layer.ravel(), "position": position.ravel(), "token": [names[i] for i in position.ravel()],
            "restored": restored.ravel(),
        }
    )  # fmt: skip
    export(frame, name="patching", key="patching_csv")
