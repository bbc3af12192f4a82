"""What a run writes, as a timeline: the same prompt, the same seed, growing sense."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.ui import state, words
from app.ui.writing import Entry, writing
from lab import store

MOST = 12
"""Texts shown unless all are asked for: more than a person reads."""


def draw_samples(run_id: str) -> None:
    """The timeline of one prompt, each text headed by the validation loss it was written at."""
    with state.cursor() as cursor:
        samples = store.samples(cursor, run_id)
        losses = store.series(cursor, run_id, "val/loss")
    if samples.empty:
        st.caption("The first text comes with the first evaluation.")
        return
    prompts = list(dict.fromkeys(samples["prompt"]))
    prompt = prompts[0]
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(prompts) > 1:
            prompt = st.selectbox("Prompt", prompts, key=f"sample_prompt_{run_id}", label_visibility="collapsed")
        every = st.toggle("Every evaluation", key=f"sample_all_{run_id}") if len(samples) > MOST else False
    of_prompt = samples[samples["prompt"] == prompt]
    chosen = of_prompt if every else of_prompt.iloc[spread(len(of_prompt), MOST)]
    writing(entries(chosen, losses), key=f"samples_{run_id}", height=420, follow=True)


def entries(samples: pd.DataFrame, losses: pd.DataFrame) -> list[Entry]:
    """Each sample with its step and the validation loss it was written at."""
    known = dict(zip(losses["step"], losses["last"], strict=True)) if len(losses) else {}
    made = []
    for sample in samples.to_dict("records"):
        loss = known.get(sample["step"])
        head = f"step {sample['step']:,}" + (f" · validation {words.loss(loss)}" if loss is not None else "")
        made.append(Entry(pieces=[(sample["text"], None)], prompt=sample["prompt"], head=head))
    return made


def spread(count: int, most: int) -> Sequence[int]:
    """Places of at most `most` out of `count`: the first, the last, and closer together where change is fastest.

    A model learns most in its first steps, so the distance between two shown texts grows with the step.
    """
    if count <= most:
        return range(count)
    ratio = (count - 1) ** (1 / (most - 1))
    places = {round(ratio**k) for k in range(most)} | {0, count - 1}
    return sorted(place for place in places if place < count)
