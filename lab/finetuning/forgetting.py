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
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from lab import paths
from lab.data.tokenizers import Tokenizer
from lab.errors import DataError
from lab.finetuning.rows import instructions_folder
from lab.models.cached_reader import last_only, new_cache
from lab.models.families import unwrapped
from lab.models.gpt import GPTModel, KVCache
from lab.sessions.hf_tokenizer import HFTokenizer
from lab.training.contracts import Row

WINDOW = 256
"""Tokens that are read at once; a shorter context reads fewer."""
AT_ONCE = 16
"""Questions in one pass. Each pass reads all weights from memory, so few are faster; with 150,000 entries in the
vocabulary and four answers of eight tokens the scores take some 300 MB."""
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
        text_tokens: how much of the story is read, in whole windows.
        autocast: in which its passes are made, as its training's are.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context_length: int,
        text_tokens: int,
        *,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ):
        self.material = material_for(tokenizer, context_length, text_tokens)
        self._device, self._autocast = torch.device(device), autocast

    def __call__(self, model: nn.Module, step: int) -> tuple[str, list[Row]]:
        with self._autocast():
            found = knowledge(model, self.material, device=self._device)
        values = {LOSS: found.loss, ACCURACY: found.accuracy}
        return "metrics", [{"step": step, "name": name, "value": v} for name, v in values.items() if v is not None]


def material_for(tokenizer: Tokenizer, context_length: int, text_tokens: int) -> Material:
    """The text and the questions as this tokenizer reads them."""
    name, ids = _general_text(tokenizer, text_tokens)
    length = max(2, min(WINDOW, context_length, text_tokens))  # of one token alone nothing is predicted
    count = min(text_tokens, len(ids)) // length
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
    return next(iter(_scored(model, [question], device)))[0]


# -- inside -----------------------------------------------------------------------------------------------


def _is_right(scores: Sequence[float], question: Question) -> bool:
    per_byte = [score / length for score, length in zip(scores, question.lengths, strict=True)]
    return per_byte[0] > max(per_byte[1:])


@torch.no_grad()
def _scored(
    model: nn.Module, questions: Sequence[Question], device: torch.device | str
) -> Iterator[tuple[list[float], Question]]:
    """Every answer's log-probability. Questions of the same length go together, so that none is padded; each is read
    once, and its answers go on from there."""
    for _, same in groupby(sorted(questions, key=_length), key=_length):
        alike = list(same)
        for begin in range(0, len(alike), AT_ONCE):
            group = alike[begin : begin + AT_ONCE]
            yield from zip(_answers_of(model, group, device), group, strict=True)


def _length(question: Question) -> int:
    return len(question.asked)


def _answers_of(model: nn.Module, group: Sequence[Question], device: torch.device | str) -> list[list[float]]:
    """Log-probability of each answer to questions of one length. Answers of one token need no reading on; longer ones
    are padded behind, where nothing that counts sees it."""
    asked = torch.tensor([question.asked for question in group])  # [n, T]
    answers = [(place, answer) for place, question in enumerate(group) for answer in question.answers]
    longer = [number for number, (_, answer) in enumerate(answers) if len(answer) > 1]
    ids = torch.zeros((len(longer), max(len(answer) for _, answer in answers)), dtype=torch.int64)  # [m, A]
    for row, number in enumerate(longer):
        ids[row, : len(answers[number][1])] = torch.tensor(answers[number][1])
    owners = torch.tensor([answers[number][0] for number in longer], dtype=torch.int64)  # [m]
    first, rest = _read_on(model, asked.to(device), ids[:, :-1].to(device), owners.to(device))
    first = first.float().log_softmax(-1).cpu()  # [n, V]
    scores = [float(first[place, answer[0]]) for place, answer in answers]
    if rest is not None:
        found = _picked(rest, ids[:, 1:].to(device)).cpu()  # [m, A-1]
        for row, number in enumerate(longer):
            scores[number] += float(found[row, : len(answers[number][1]) - 1].sum())
    each = iter(scores)
    return [[next(each) for _ in question.answers] for question in group]


def _read_on(model: nn.Module, beginnings: Tensor, endings: Tensor, owners: Tensor) -> tuple[Tensor, Tensor | None]:
    """Read each beginning once, and then any number of endings of each.

    Args:
        beginnings: int64 [n, T]
        endings: int64 [m, E]
        owners: int64 [m], the beginning that each ending goes on from.

    Returns:
        Scores of what follows each beginning, [n, V], and of what follows each token of the endings, [m, E, V]; None
        when there are no endings.
    """
    inner: Any = unwrapped(model)
    if isinstance(inner, GPTModel):
        seen = KVCache()
        first = inner.out_head(inner.hidden(beginnings, seen)[:, -1])
        seen.keys = [keys[owners] for keys in seen.keys]
        seen.values = [values[owners] for values in seen.values]
        return first, inner.out_head(inner.hidden(endings, seen)) if endings.numel() else None
    cache = new_cache(inner)
    first = model(input_ids=beginnings, past_key_values=cache, use_cache=True, **last_only(inner)).logits[:, -1]
    if not endings.numel():
        return first, None
    cache.batch_select_indices(owners)
    return first, model(input_ids=endings, past_key_values=cache, use_cache=True).logits


def _log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    """Of each token but the first, given those before it: int64 [B, T] -> float32 [B, T-1]."""
    inner = unwrapped(model)
    logits = model(ids) if isinstance(inner, GPTModel) else model(input_ids=ids, use_cache=False).logits
    return _picked(logits[:, :-1], ids[:, 1:])


def _picked(scores: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each id: [B, T, V] and int64 [B, T] -> float32 [B, T]."""
    scores = scores.float()
    return scores.gather(-1, ids[..., None])[..., 0] - scores.logsumexp(-1)


def _general_text(tokenizer: Tokenizer, tokens: int) -> tuple[str, list[int]]:
    for name, start in _TEXTS:
        text = (paths.bundled_corpora() / name).read_text(encoding="utf-8")[start : start + 8 * tokens + 80]
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
