"""Asking base and tuned the same question, with the adapter turned up and down, and seeing where they part.

The adapter's change is a product with a scale in front, so it can be turned from 0 (the base model) over 1 (as trained)
to 1.5 (more of the same) without training anything. Which tokens are the adapter's doing is measured: after each of
them base and tuned read the same text, and KL(tuned ‖ base) says how differently they would have gone on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lab.errors import ModelError
from lab.finetuning.formats import Turn
from lab.finetuning.frames import Choice, frame_for
from lab.models.cached_reader import CachedReader, end_tokens
from lab.models.families import unwrapped
from lab.models.generate import next_logits, write
from lab.models.gpt import GPTModel, KVCache
from lab.models.sampling import Sampling
from lab.sessions.session import ModelSession
from lab.sessions.variants import BASE

MOST = 1.5
"""How far the adapter can be turned up."""


@dataclass(frozen=True)
class Word:
    """One written token."""

    text: str
    token_id: int
    kl: float
    """KL(tuned ‖ base) in nats of what could have stood here: 0 where both would have gone on alike."""
    probability: float
    """That the model which wrote gave to it."""
    base_probability: float


@dataclass(frozen=True)
class Reply:
    """An answer, token by token."""

    words: tuple[Word, ...]
    scale: float
    """0: the base model's; 1: the tuned model's."""

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words)


@contextmanager
def turned(session: ModelSession, scale: float) -> Iterator[None]:
    """Ask the model with its adapter multiplied; 1 is as it was trained. Takes the session's lock.

    Raises:
        ModelError: the session follows no adapter.
    """
    if session.variant == BASE:
        raise ModelError(f"{session.name} has no adapter that could be turned up or down.")
    with session.lock:
        layers = [module for module in session.model.modules() if session.variant in _scaling(module)]
        before = [_scaling(layer)[session.variant] for layer in layers]
        for layer, trained in zip(layers, before, strict=True):
            _scaling(layer)[session.variant] = trained * scale
        try:
            yield
        finally:
            for layer, trained in zip(layers, before, strict=True):
                _scaling(layer)[session.variant] = trained


def reply(
    session: ModelSession,
    turns: Sequence[Turn],
    sampling: Sampling,
    *,
    scale: float = 1.0,
    template: Choice = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> Reply:
    """The answer to a conversation, and how much of each token is the adapter's doing.

    Args:
        session: of a base with an adapter, or of any model: then there is nothing to compare, and every KL is 0.
        scale: of the adapter, from 0 to 1.5.
        template: the frame that the model was trained in.

    Raises:
        DataError: the tokenizer does not know a character, or the template refuses the conversation.
        ModelError: the scale is out of range.
    """
    if not 0 <= scale <= MOST:
        raise ModelError(f"The adapter is turned from 0 to {MOST}, not to {scale:g}.")
    frame = frame_for(session.tokenizer, template)
    ids = frame.prompt_ids(turns)
    with _following(session, scale):
        written = _write(session, ids, sampling, frame.end, stop)
        scores = _scores(session, ids, written)
    if session.variant == BASE:
        base = scores
    else:
        with session.lock, session.using(BASE):
            base = _scores(session, ids, written)
    p, q = scores.log_softmax(-1), base.log_softmax(-1)
    kls = (p.exp() * (p - q)).sum(-1).clamp(min=0).tolist()  # [written]
    stream = session.tokenizer.decode_stream()
    end = len(frame.end)
    said = written[:-end] if tuple(written[-end:]) == frame.end else written
    words = [
        Word(stream.add(token), token, kl, float(p[place, token].exp()), float(q[place, token].exp()))
        for place, (token, kl) in enumerate(zip(said, kls, strict=False))
    ]
    return Reply(tuple(words), scale)


@contextmanager
def _following(session: ModelSession, scale: float) -> Iterator[None]:
    if session.variant == BASE:
        with session.lock:
            yield
    elif scale == 0:  # switched off: exactly the base, and faster
        with session.lock, session.using(BASE):
            yield
    else:
        with turned(session, scale):
            yield


def _write(
    session: ModelSession, ids: Sequence[int], sampling: Sampling, end: tuple[int, ...], stop: Callable[[], bool]
) -> list[int]:
    inner = unwrapped(session.model)
    if isinstance(inner, GPTModel):
        cache = KVCache()
        tokens = write(lambda so_far: next_logits(inner, so_far, cache), ids, sampling, ends=frozenset(), stop=stop)
    else:
        ends = end_tokens(session.model) | (frozenset(end) if len(end) == 1 else frozenset())
        tokens = write(CachedReader(session.model), ids, sampling, ends=ends, stop=stop)
    written: list[int] = []
    for token in tokens:
        written.append(token.id)
        if tuple(written[-len(end) :]) == end:
            break
    return written


@torch.no_grad()
def _scores(session: ModelSession, ids: Sequence[int], written: Sequence[int]) -> torch.Tensor:
    """What the model thought at each written token: float32 [written, vocab]."""
    if not written:
        return torch.zeros((0, 1))
    whole = torch.tensor([[*ids, *written]])
    inner = unwrapped(session.model)
    if isinstance(inner, GPTModel):
        whole = whole[:, -inner.config.context_length :]
        logits = session.model(whole)
    else:
        device = next(session.model.parameters()).device
        logits = session.model(input_ids=whole.to(device), use_cache=False).logits
    count = min(len(written), whole.shape[1] - 1)
    found = logits[0, -count - 1 : -1].float().cpu()
    if count < len(written):  # a context too short for all: what was written before it is not compared
        found = torch.cat([found.new_zeros((len(written) - count, found.shape[1])), found])
    return found


def _scaling(layer: Any) -> dict[str, float]:
    """An adapter's factors by name; attention layers have a number of this name, which is another thing."""
    found = getattr(layer, "scaling", None)
    return found if isinstance(found, dict) else {}
