"""From a config and a tokenizer to rows to learn from: read, recognise, put into a frame, check, split.

`look` says everything that is wrong, for a preview; `prepare` refuses instead, before anything is started.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from lab.config.finetune import FineTuneConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import DataError
from lab.finetuning.examples import Example
from lab.finetuning.formats import Conversation, Turn, recognise
from lab.finetuning.frames import Frame, example_of, frame_for, special_texts
from lab.finetuning.rows import Row, read_dataset, rows_said
from lab.finetuning.split import groups_of, split


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a data set is, in figures; stored with the run."""

    dataset: str
    format: str
    template: str
    """model: the chat template of the model; lab: the lab's plain one."""
    rows: int
    train_rows: int
    val_rows: int
    same_rows: int
    """Rows that say the same as an earlier one; they stand on one side of the split."""
    train_tokens: int
    label_tokens: int
    """Of the training rows: the tokens that are learnt (completion tokens)."""
    longest: int
    """Tokens of the longest row."""
    median: int
    notes: tuple[str, ...] = ()
    """Sentences to show beside the figures."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True)
class Prepared:
    """What a training reads."""

    train: list[Example]
    val: list[Example]
    report: DataReport
    frame: Frame
    train_conversations: list[Conversation]
    """Beside `train`, row by row."""
    val_conversations: list[Conversation]
    """Beside `val`, row by row."""

    def questions(self, count: int) -> list[str]:
        """The first different questions of the validation rows, as a person typed them."""
        found = (conversation.question[-1].content for conversation in self.val_conversations)
        return list(dict.fromkeys(found))[:count]

    def prompt_ids(self, question: str) -> list[int]:
        """A question in the frame, up to where the answer begins.

        Raises:
            DataError: the tokenizer does not know a character of it.
        """
        return self.frame.prompt_ids((Turn("user", question),))


@dataclass(frozen=True)
class DataLook:
    """A data set as the model would see it, with everything that is wrong with it."""

    config: FineTuneConfig
    frame: Frame
    format: str
    conversations: list[Conversation]
    """Of the rows that could be read."""
    examples: list[Example]
    """Beside `conversations`, uncut."""
    mistakes: list[str]
    """Sentences with row numbers; empty when a training can start."""

    @property
    def max_length(self) -> int:
        return self.config.data.max_length

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(example.ids) for example in self.examples]

    @property
    def too_long(self) -> list[Example]:
        """Rows whose end, and with it the end of the answer, would be cut off."""
        return [example for example in self.examples if len(example.ids) > self.max_length]


def prepare(config: FineTuneConfig, tokenizer: Tokenizer) -> Prepared:
    """The rows to learn from and to validate with.

    Raises:
        DataError: the data set is not there, or something is wrong with it; every kind of mistake is one sentence with
            row numbers.
    """
    return divided(look(config, tokenizer))


def divided(seen: DataLook) -> Prepared:
    """Split what was looked at, if nothing is wrong with it.

    Raises:
        DataError: as `prepare`.
    """
    if seen.mistakes:
        raise DataError(" ".join(seen.mistakes))
    config = seen.config
    train, val = split(seen.conversations, config.data.val_fraction, config.train.seed)
    learnt = [seen.examples[place] for place in train]
    report = DataReport(
        dataset=config.data.dataset,
        format=seen.format,
        template=seen.frame.name,
        rows=len(seen.examples),
        train_rows=len(train),
        val_rows=len(val),
        same_rows=len(seen.conversations) - len(groups_of(seen.conversations)),
        train_tokens=sum(len(example.ids) for example in learnt),
        label_tokens=sum(example.n_labels for example in learnt),
        longest=max(seen.lengths),
        median=sorted(seen.lengths)[len(seen.lengths) // 2],
        notes=tuple(_notes(seen)),
    )
    return Prepared(
        learnt,
        [seen.examples[place] for place in val],
        report,
        seen.frame,
        [seen.conversations[place] for place in train],
        [seen.conversations[place] for place in val],
    )


def look(config: FineTuneConfig, tokenizer: Tokenizer, rows: Sequence[Row] | None = None) -> DataLook:
    """Read a data set as far as it can be read, and collect what is wrong.

    Args:
        rows: read before; None reads the config's data set.

    Raises:
        DataError: nothing of it can be read.
    """
    data = config.data
    if rows is None:
        rows = read_dataset(data.dataset)
    found = recognise(rows, data.format, data.columns)
    frame = frame_for(tokenizer, data.chat_template)
    mistakes = [*found.mistakes, *_forged(found.conversations, tokenizer)]
    conversations, examples, refused = [], [], Counter[str]()
    first: dict[str, int] = {}
    for conversation in found.conversations:
        try:
            example = example_of(conversation, frame, completion_only=data.completion_only)
        except DataError as error:
            said = str(error).rstrip(".")
            refused[said] += 1
            first.setdefault(said, conversation.row)
            continue
        conversations.append(conversation)
        examples.append(example)
    mistakes += [f"In row {first[said]:,}{_others(count)}: {said}." for said, count in refused.items()]
    seen = DataLook(config, frame, found.format, conversations, examples, mistakes)
    seen.mistakes.extend(_lengths_wrong(seen))
    if not seen.mistakes and len(conversations) >= 1:
        try:
            split(conversations, data.val_fraction, config.train.seed)
        except DataError as error:
            seen.mistakes.append(str(error))
    return seen


def _forged(conversations: Sequence[Conversation], tokenizer: Tokenizer) -> list[str]:
    """Texts that would be read as the frame itself."""
    found: dict[str, list[int]] = {}
    texts = [text for text in special_texts(tokenizer) if text.strip()]
    for conversation in conversations:
        for text in texts:
            if any(text in turn.content for turn in conversation.turns):
                found.setdefault(text, []).append(conversation.row)
    return [
        f"The text {text} stands in {rows_said(numbers)}, but the model reads it as a sign of its chat template: take "
        "it out, or give the conversation as messages."
        for text, numbers in found.items()
    ]


def _lengths_wrong(seen: DataLook) -> list[str]:
    wrong = []
    unlearnable = [example.row for example in seen.examples if example.n_labels == 0]
    if unlearnable:
        wrong.append(f"Nothing is to be learnt in {rows_said(unlearnable)}: there is no token of an answer.")
    cut = seen.too_long
    if cut:
        empty = sum(not any(example.learn[1 : seen.max_length]) for example in cut)
        lost = f" and the whole answer of {empty:,} of them" if empty else ""
        wrong.append(
            f"The length of {seen.max_length:,} tokens cuts off the end of the answer in {len(cut):,} of "
            f"{len(seen.examples):,} rows{lost} ({rows_said([example.row for example in cut])}): set max_length to "
            f"{max(seen.lengths):,}, or take those rows out."
        )
    return wrong


def _notes(seen: DataLook) -> list[str]:
    notes = []
    if len(seen.frame.end) > 1:
        notes.append("This tokenizer has no end token: an empty line ends an answer.")
    if not seen.config.data.completion_only:
        notes.append("The questions are learnt, too.")
    return notes


def _others(count: int) -> str:
    return f" and {count - 1:,} more" if count > 1 else ""
