"""Asking base and tuned the same question, with the adapter turned up and down, and seeing where they part.

The adapter's change is a product with a scale in front, so it can be turned from 0 (the base model) over 1 (as trained)
to 1.5 (more of the same) without training anything. Which tokens are the adapter's doing is measured: at each of them
the base reads the same text, and KL(tuned ‖ base) says how differently it would have gone on.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lab.config import FineTuneConfig
from lab.errors import DataError, ModelError
from lab.finetuning.answering import answer_tokens
from lab.finetuning.formats import Turn
from lab.finetuning.frames import Choice, frame_for
from lab.models.adapters import precision_of_run
from lab.models.cached_reader import reader_of
from lab.models.sampling import Sampling
from lab.rundir import find_run
from lab.sessions import shelf
from lab.sessions.session import ModelSession
from lab.sessions.variants import BASE

MOST = 1.5
"""How far the adapter can be turned up."""

Side = Literal["base", "tuned"]


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
    with session.lock:  # whoever has it knows the variant: elsewhere another thread may be asking the base meanwhile
        if session.variant == BASE:
            raise ModelError(f"{session.name} has no adapter that could be turned up or down.")
        layers = [module for module in session.model.modules() if session.variant in _scaling(module)]
        before = [_scaling(layer)[session.variant] for layer in layers]
        for layer, trained in zip(layers, before, strict=True):
            _scaling(layer)[session.variant] = trained * scale
        try:
            yield
        finally:
            for layer, trained in zip(layers, before, strict=True):
                _scaling(layer)[session.variant] = trained


def reply(session: ModelSession, turns: Sequence[Turn], sampling: Sampling, **options: Any) -> Reply:
    """The whole answer to a conversation; arguments and errors as `spoken`."""
    return Reply(tuple(spoken(session, turns, sampling, **options)), options.get("scale", 1.0))


def spoken(
    session: ModelSession,
    turns: Sequence[Turn],
    sampling: Sampling,
    *,
    scale: float = 1.0,
    base: ModelSession | None = None,
    template: Choice = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Word]:
    """The answer to a conversation, token by token, and how much of each is the tuning's doing. The session's lock is
    held for one token at a time, so that others get their turn in between.

    Args:
        session: of a base with an adapter, or of any model.
        scale: of the adapter, from 0 to 1.5.
        base: what a session without an adapter was tuned from. None: there is nothing to compare, and every KL is 0.
        template: the frame that the model was trained in.

    Raises:
        DataError: the tokenizer does not know a character, or the template refuses the conversation.
        ModelError: the scale is out of range.
    """
    if not 0 <= scale <= MOST:
        raise ModelError(f"The adapter is turned from 0 to {MOST}, not to {scale:g}.")
    frame = frame_for(session.tokenizer, template)
    with session.weights.lock:
        has_adapter = session.variant != BASE
    own, other = reader_of(session.model), None
    if has_adapter and scale != 0:
        other = reader_of(session.model)
    elif base is not None:
        other = reader_of(base.model)
    compared: deque[tuple[float, Tensor] | None] = deque()  # KL, and the base's log-probabilities: [vocab]

    def read(ids: Sequence[int]) -> Tensor:
        with _following(session, scale if has_adapter else 0):
            scores = own(ids)
        if other is None:
            compared.append(None)
        else:
            with session.using(BASE) if has_adapter else base.lock:  # type: ignore[union-attr] # or other is None
                compared.append(_compare(scores, other(ids)))
        return scores

    stream = session.tokenizer.decode_stream()
    for token in answer_tokens(session.model, read, frame.prompt_ids(turns), sampling, frame.end, stop):
        kl, base_probability = 0.0, token.probability
        if (found := compared.popleft()) is not None:
            kl, base_probability = found[0], float(found[1][token.id].exp())
        yield Word(stream.add(token.id), token.id, kl, token.probability, base_probability)


def answers(
    run_id: str,
    step: int | None,
    question: str,
    sampling: Sampling,
    *,
    scale: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
    opened: Callable[[ModelSession], None] = lambda session: None,
) -> Iterator[tuple[Side, Word]]:
    """What a fine-tuning run's base says to a question, and then what its state says.

    Args:
        step: of the run's checkpoint; None takes the newest state.
        scale: of the adapter; a full fine-tuning has none that could be turned.
        opened: told the state's session, whose step is known then.

    Raises:
        LabError: the model cannot be opened, or the question cannot be read.
    """
    if not question.strip():
        raise DataError("The question is empty: type at least one word.")
    run = find_run(run_id)
    config = run.config_as(FineTuneConfig)
    precision = precision_of_run(run)
    tuned = shelf.get(run.run_id if step is None else f"{run.run_id}@{step}", precision=precision)
    opened(tuned)
    turns, template = (Turn("user", question),), config.data.chat_template
    base = None if config.has_adapter else shelf.get(config.model.model, precision=precision)
    for word in spoken(base or tuned, turns, sampling, scale=0.0, template=template, stop=stop):
        yield "base", word
    strength = scale if config.has_adapter else 1.0
    for word in spoken(tuned, turns, sampling, scale=strength, base=base, template=template, stop=stop):
        yield "tuned", word


@contextmanager
def _following(session: ModelSession, scale: float) -> Iterator[None]:
    if scale == 0:  # switched off: exactly the base, and faster
        with session.using(BASE):
            yield
    else:
        with turned(session, scale):
            yield


def _compare(scores: Tensor, base: Tensor) -> tuple[float, Tensor]:
    """KL(tuned ‖ base) in nats, and the base's log-probabilities. Both: float32 [vocab]."""
    p, q = scores.log_softmax(-1), base.log_softmax(-1)
    return max(0.0, float((p.exp() * (p - q)).sum())), q


def _scaling(layer: Any) -> dict[str, float]:
    """An adapter's factors by name; attention layers have a number of this name, which is another thing."""
    found = getattr(layer, "scaling", None)
    return found if isinstance(found, dict) else {}
