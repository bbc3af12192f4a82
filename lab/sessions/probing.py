"""Probes on an opened model: a property of the text, the activations, and what the accuracy has to be compared with."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lab.analysis import probe_data
from lab.analysis.probe_data import ProbeTask, activations
from lab.analysis.probes import Kind, ProbeReport, probe_rows
from lab.data.corpora import find_corpus, list_corpora, read_text
from lab.models.families import anatomy
from lab.models.gpt import build_gpt
from lab.sessions.session import ModelSession

Property = Literal["next", "position", "sentiment", "own"]
PROPERTIES: dict[Property, str] = {
    "next": "Class of the next character",
    "position": "Quarter of the text",
    "sentiment": "Good or bad word in the sentence",
    "own": "Own labels (CSV)",
}
EXAMPLES = 1_500
_TEXTS, _LENGTH = 60, 64
_CORPUS_CHARACTERS = 200_000
_READING = 0.4
"""Of the time, that reading takes; the rest is for the probes."""


def probe(
    session: ModelSession,
    wanted: Property,
    *,
    kind: Kind = "ridge",
    content: bytes = b"",
    examples: int = EXAMPLES,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[ProbeTask, ProbeReport]:
    """Train a probe on each row of the stream, with its controls; and on the same model untrained, where the lab knows
    how it began.

    Args:
        content: of "own": a CSV file with the columns text and label.
        examples: at most.
        progress: called with the share that is done and a sentence.

    Raises:
        DataError: there are too few examples or classes, or the CSV cannot be used.
        ModelError: the family is unknown.
    """
    tell = progress or (lambda share, sentence: None)
    task = _task(session, wanted, content).sampled(examples)
    with session.lock:
        features = activations(
            session.anatomy,
            task,
            progress=lambda done, total: tell(_READING * done / total, f"Text {done} of {total}"),
        )
    baselines = {}
    if session.config is not None and session.variant == "base":
        fresh = build_gpt(session.config.model, seed=session.config.train.seed).eval()
        baselines["untrained model"] = activations(anatomy(fresh), task)
    report = probe_rows(
        features,
        task.labels,
        tokens=task.tokens,
        groups=task.groups,
        baselines=baselines,
        kind=kind,
        progress=lambda done, total: tell(_READING + (1 - _READING) * done / total, f"Probe {done} of {total}"),
    )
    return task, report


def corpus_tokens(session: ModelSession) -> NDArray[np.integer]:
    """A piece of text that the model did not train on: the end of its own corpus, else of the first one here."""
    name = session.config.data.corpus if session.config is not None else list_corpora()[0].name
    return session.tokenizer.encode_array(read_text(find_corpus(name))[-_CORPUS_CHARACTERS:])


def _task(session: ModelSession, wanted: Property, content: bytes) -> ProbeTask:
    tokenizer, context = session.tokenizer, session.anatomy.context_length
    if wanted == "own":
        return probe_data.from_csv(tokenizer, content, context_length=context)
    if wanted == "sentiment":
        return probe_data.sentiment_words(tokenizer)
    texts = probe_data.windows_of(corpus_tokens(session), length=min(_LENGTH, context), n_texts=_TEXTS)
    return (
        probe_data.position_in_text(texts)
        if wanted == "position"
        else probe_data.next_character_class(tokenizer, texts)
    )
