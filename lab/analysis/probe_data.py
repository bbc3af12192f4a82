"""What a probe is trained on: positions of texts with a label each.

task = next_character_class(tokenizer, texts)        every position, labelled by what comes next
task = task.sampled(2000, seed=0)                    a manageable number of them
features = activations(anatomy(model), task)         [row, example, d_model]
report = probe_rows(features, task.labels, tokens=task.tokens, groups=task.groups)
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.analysis.recording import record_rows
from lab.data.tokenizers import Tokenizer
from lab.errors import DataError
from lab.models.families import Anatomy

MAX_CLASSES = 50


@dataclass(frozen=True)
class ProbeTask:
    """Examples: a place in a text, and its label."""

    texts: tuple[tuple[int, ...], ...]
    """Token ids of each text."""
    text: Tensor
    """int64 [n], which text an example is in."""
    position: Tensor
    """int64 [n], at which token of it."""
    labels: Tensor
    """int64 [n]."""
    names: tuple[str, ...]
    """What each label means."""
    groups: Tensor
    """int64 [n], what must stay on one side of the split: the text, or the word."""

    @property
    def tokens(self) -> Tensor:
        """int64 [n], the token at each example, for the control task."""
        return torch.tensor([self.texts[t][p] for t, p in zip(self.text.tolist(), self.position.tolist(), strict=True)])

    def sampled(self, n: int, *, seed: int = 0) -> "ProbeTask":
        """At most `n` of the examples, drawn at random by a generator of its own."""
        if len(self.labels) <= n:
            return self
        drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(self.labels))[:n]
        keep = torch.from_numpy(np.sort(drawn))
        return replace(
            self,
            text=self.text[keep],
            position=self.position[keep],
            labels=self.labels[keep],
            groups=self.groups[keep],
        )


def activations(parts: Anatomy, task: ProbeTask, *, progress: Callable[[int, int], None] | None = None) -> Tensor:
    """The stream at every example: float32 [row, n, d_model], row 0 the embedding, row l + 1 after block l.

    Args:
        progress: told (texts read, texts).
    """
    features = torch.empty(parts.n_layers + 1, len(task.labels), parts.d_model)
    for number, ids in enumerate(task.texts):
        here = (task.text == number).nonzero()[:, 0]
        if len(here):
            rows = record_rows(parts, torch.tensor([ids]))[:, 0]  # [row, pos, d_model]
            features[:, here] = rows[:, task.position[here].to(rows.device)].float().cpu()
        if progress is not None:
            progress(number + 1, len(task.texts))
    return features


def windows_of(tokens: NDArray[np.integer], *, length: int, n_texts: int, seed: int = 0) -> list[list[int]]:
    """Texts cut from a corpus at random places that do not overlap.

    Raises:
        DataError: the corpus is too short for that many.
    """
    places = len(tokens) // length
    if places < n_texts:
        raise DataError(f"The text has {len(tokens):,} tokens, too few for {n_texts} pieces of {length}.")
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(places)[:n_texts]
    return [tokens[place * length : (place + 1) * length].tolist() for place in chosen]


# -- labels that the text itself gives -------------------------------------------------------------------

CHARACTER_CLASSES = ("lower case", "upper case", "digit", "space", "newline", "other")


def next_character_class(tokenizer: Tokenizer, texts: Sequence[Sequence[int]]) -> ProbeTask:
    """At each position the class of the character that comes next: what the model has to foresee."""
    examples = []
    for number, ids in enumerate(texts):
        stream = tokenizer.decode_stream()
        pieces = [stream.add(token) for token in ids]  # "" while the bytes of a character are incomplete
        for position in range(len(ids) - 1):
            following = pieces[position + 1]
            if following:
                examples.append((number, position, _character_class(following[0])))
    return _task(texts, examples, CHARACTER_CLASSES)


def _character_class(character: str) -> int:
    if character == "\n":
        return 4
    checks = (character.islower(), character.isupper(), character.isdigit(), character.isspace())
    return checks.index(True) if any(checks) else 5


def position_in_text(texts: Sequence[Sequence[int]], *, n_parts: int = 4) -> ProbeTask:
    """At each position which part of the text it is in, first to last: does the model know where it is?"""
    examples = []
    for number, ids in enumerate(texts):
        examples += [(number, position, position * n_parts // len(ids)) for position in range(len(ids))]
    return _task(texts, examples, [f"part {part + 1} of {n_parts}" for part in range(n_parts)])


POSITIVE = (
    "good great happy lovely kind sweet noble fair bright gentle merry pleasant worthy honest joyful wonderful "
    "glorious charming delightful excellent"
).split()
NEGATIVE = (
    "bad awful sad ugly cruel bitter base foul dark harsh gloomy nasty wicked false dreadful terrible miserable vile "
    "horrible wretched"
).split()
_SENTENCES = (
    "The day was {} and we went home.",
    "He told a {} tale to all of them.",
    "It is a {} thing that you have done.",
    "She gave him a {} look and said no more.",
    "They came to a {} place by the sea.",
)


def sentiment_words(tokenizer: Tokenizer) -> ProbeTask:
    """At the end of a sentence whether the describing word in its middle was a good or a bad one.

    The word has to be carried along to the end. All sentences of a word are on one side of the split, so the probe is
    judged on words that it never saw: a probe that only memorises words stays at chance.
    """
    texts: list[list[int]] = []
    examples, groups = [], []
    for label, words in enumerate((NEGATIVE, POSITIVE)):
        for number, word in enumerate(words):
            for sentence in _SENTENCES:
                ids = tokenizer.encode(sentence.format(word))
                examples.append((len(texts), len(ids) - 1, label))
                groups.append(number + label * len(NEGATIVE))
                texts.append(ids)
    return replace(_task(texts, examples, ("negative", "positive")), groups=torch.tensor(groups))


# -- a person's own labels -------------------------------------------------------------------------------


def from_csv(tokenizer: Tokenizer, content: bytes, *, context_length: int) -> ProbeTask:
    """A CSV file with the columns `text` and `label`; the example is the last token of each text.

    Raises:
        DataError: not UTF-8, a missing column, an empty or too long text, fewer than 2 or more than 50 labels.
    """
    try:
        table = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        rows = list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The file is not a CSV table in UTF-8 ({error}); save it again as CSV, UTF-8.") from error
    missing = [name for name in ("text", "label") if name not in (table.fieldnames or [])]
    if missing:
        found = ", ".join(table.fieldnames or []) or "nothing"
        raise DataError(f"The first line must name the columns text and label; it has {found}.")
    names = tuple(sorted({row["label"] or "" for row in rows}))
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(f"The column label has {len(names)} different values; a probe tells 2 to {MAX_CLASSES} apart.")
    texts, examples = [], []
    for number, row in enumerate(rows):
        ids = tokenizer.encode(row["text"] or "")
        if not 1 <= len(ids) <= context_length:
            raise DataError(
                f"The text in row {number + 1} has {len(ids):,} tokens; this model reads 1 to {context_length:,}."
            )
        texts.append(ids)
        examples.append((number, len(ids) - 1, names.index(row["label"] or "")))
    return _task(texts, examples, names)


def _task(texts: Sequence[Sequence[int]], examples: list[tuple[int, int, int]], names: Sequence[str]) -> ProbeTask:
    columns = torch.tensor(examples, dtype=torch.int64).reshape(-1, 3)
    text, position, labels = columns.unbind(1)
    return ProbeTask(tuple(tuple(ids) for ids in texts), text, position, labels, tuple(names), groups=text)
