"""What a model still knows of what nobody trains it on: a few seconds at each evaluation.

Two figures. `forget/loss` is the cross-entropy on pages of an old story: it rises when the model loses its feeling for
ordinary text. `forget/accuracy` is the share of forty simple questions with four answers each for which the right one
is the likeliest; guessing gets a quarter. Neither the story nor the questions are in any bundled data set. Beside the
validation loss they say what a behaviour was bought with.

The answers are compared per byte of their text, so that a long answer is not unlikely for its length alone (the way in
which evaluation harnesses report "normalised" accuracy).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lab import paths
from lab.data.tokenizers import Tokenizer
from lab.errors import DataError
from lab.finetuning.rows import instructions_folder
from lab.models.families import unwrapped
from lab.models.gpt import GPTModel
from lab.sessions.hf_tokenizer import HFTokenizer
from lab.training.contracts import Row

TEXT_TOKENS = 1_024
WINDOW = 256
"""Tokens that are read at once; a shorter context reads fewer."""
AT_ONCE = 16
"""Sequences in one pass: at 150,000 entries of a vocabulary their logits take some 200 MB."""
LOSS, ACCURACY = "forget/loss", "forget/accuracy"

_TEXTS = (("alice.txt", 20_000), ("shakespeare.txt", 1_050_000), ("tiny.txt", 0))
"""The first whose characters the tokenizer knows is read, from this character on."""


@dataclass(frozen=True)
class Question:
    """A question with its answers as tokens; the first answer is the right one."""

    asked: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    """Bytes of each answer."""


@dataclass(frozen=True)
class Material:
    """What the model is asked."""

    text: str
    """Name of the general text; empty where the tokenizer knows none."""
    windows: Tensor
    """int64 [window, pos]"""
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Knowledge:
    """What a model knew when it was asked. None: its tokenizer cannot read the material."""

    loss: float | None
    """Nats per token."""
    accuracy: float | None
    """Share of the questions answered rightly."""


class Forgetting:
    """A probe: the two figures at each evaluation.

    Args:
        context_length: tokens that the model can read.
        autocast: in which its passes are made, as its training's are.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_length: int,
        *,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ):
        self.material = material_for(tokenizer, context_length)
        self._device, self._autocast = torch.device(device), autocast

    def __call__(self, model: nn.Module, step: int) -> tuple[str, list[Row]]:
        with self._autocast():
            found = knowledge(model, self.material, device=self._device)
        values = {LOSS: found.loss, ACCURACY: found.accuracy}
        return "metrics", [{"step": step, "name": name, "value": v} for name, v in values.items() if v is not None]


def material_for(tokenizer: Tokenizer, context_length: int) -> Material:
    """The text and the questions as this tokenizer reads them."""
    name, ids = _general_text(tokenizer)
    length = min(WINDOW, context_length)
    count = min(TEXT_TOKENS, len(ids)) // length
    windows = torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)
    return Material(name, windows, tuple(_questions(tokenizer, context_length)))


@torch.no_grad()
def knowledge(model: nn.Module, material: Material, *, device: torch.device | str = "cpu") -> Knowledge:
    """Ask a model. It has to be in eval mode; nothing is drawn at random."""
    loss = None
    if len(material.windows):
        total = sum(float(-_log_probabilities(model, window[None].to(device)).sum()) for window in material.windows)
        loss = total / (material.windows.numel() - len(material.windows))
    right = [_is_right(scores, question) for scores, question in _scored(model, material.questions, device)]
    return Knowledge(loss, sum(right) / len(right) if right else None)


def scores_of(model: nn.Module, question: Question, *, device: torch.device | str = "cpu") -> list[float]:
    """Log-probability of each answer, in nats."""
    with torch.no_grad():
        return next(iter(_scored(model, [question], device)))[0]


# -- inside -----------------------------------------------------------------------------------------------


def _is_right(scores: Sequence[float], question: Question) -> bool:
    per_byte = [score / length for score, length in zip(scores, question.lengths, strict=True)]
    return per_byte[0] > max(per_byte[1:])


def _scored(
    model: nn.Module, questions: Sequence[Question], device: torch.device | str
) -> Iterator[tuple[list[float], Question]]:
    """Every answer's log-probability. Sequences of like length go together; padding stands behind, where it is not
    seen by what comes before it."""
    asked = [
        (number, question.asked + answer, len(answer))
        for number, question in enumerate(questions)
        for answer in question.answers
    ]
    scores: list[list[tuple[int, float]]] = [[] for _ in questions]
    order = sorted(range(len(asked)), key=lambda place: len(asked[place][1]))
    for begin in range(0, len(order), AT_ONCE):
        places = order[begin : begin + AT_ONCE]
        longest = max(len(asked[place][1]) for place in places)
        ids = torch.zeros((len(places), longest), dtype=torch.int64)
        for row, place in enumerate(places):
            ids[row, : len(asked[place][1])] = torch.tensor(asked[place][1])
        found = _log_probabilities(model, ids.to(device)).cpu()  # [B, T-1]
        for row, place in enumerate(places):
            number, sequence, length = asked[place]
            end = len(sequence) - 1  # the last token is predicted at the place before it
            scores[number].append((place, float(found[row, end - length : end].sum())))
    for number, question in enumerate(questions):
        yield [score for _, score in sorted(scores[number])], question


def _log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    """Of each token but the first, given those before it: int64 [B, T] -> float32 [B, T-1]."""
    inner = unwrapped(model)
    logits = model(ids) if isinstance(inner, GPTModel) else model(input_ids=ids, use_cache=False).logits
    scores = logits[:, :-1].float()  # [B, T-1, V]
    return scores.gather(-1, ids[:, 1:, None])[..., 0] - scores.logsumexp(-1)


def _general_text(tokenizer: Tokenizer) -> tuple[str, list[int]]:
    for name, start in _TEXTS:
        text = (paths.bundled_corpora() / name).read_text(encoding="utf-8")[start : start + 8 * TEXT_TOKENS]
        try:
            return name, tokenizer.encode(text[text.find("\n") + 1 :])
        except DataError:  # a tokenizer of characters that the text does not keep to
            continue
    return "", []


def _questions(tokenizer: Tokenizer, context_length: int) -> Iterator[Question]:
    lines = (instructions_folder() / "questions.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        question, *answers = (part.strip() for part in line.split("|"))
        try:
            asked = tokenizer.encode(f"Question: {question}\nAnswer:")
            found = tuple(tuple(_continued(tokenizer, f" {answer}")) for answer in answers)
        except DataError:
            continue
        if len(asked) + max(map(len, found)) <= context_length:
            yield Question(tuple(asked), found, tuple(len(answer.encode()) for answer in answers))


def _continued(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text in the middle: without what the model expects at the start."""
    if isinstance(tokenizer, HFTokenizer):
        return list(tokenizer.inner(text, add_special_tokens=False, verbose=False).input_ids)
    return tokenizer.encode(text)
