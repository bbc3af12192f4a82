"""Three ways in which people write down conversations, read as one.

    instruction          instruction, input (may be empty or missing), output; system may stand beside them
    prompt_completion    prompt, completion
    messages             messages: a list of {"role": "user", "content": "…"}

What is wrong is found in all rows before anything is said, and each kind of mistake is one sentence with row numbers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from lab.errors import DataError
from lab.finetuning.rows import Row, rows_said

Format = Literal["instruction", "prompt_completion", "messages"]

NEEDED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "instruction": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
}
"""The columns that each format cannot do without, in the order in which they are looked for."""
OPTIONAL: dict[Format, tuple[str, ...]] = {
    "messages": (),
    "instruction": ("input", "system"),
    "prompt_completion": ("system",),
}
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """Something that was said."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Conversation:
    """One row: what is said, by whom. It ends with an answer."""

    turns: tuple[Turn, ...]
    row: int

    @property
    def question(self) -> tuple[Turn, ...]:
        """Everything before the first answer."""
        first = next(place for place, turn in enumerate(self.turns) if turn.role == "assistant")
        return self.turns[:first]

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(turn.content for turn in self.turns if turn.role == "assistant")


@dataclass(frozen=True)
class Recognised:
    """What was read, and what is wrong with it: a sentence for each kind of mistake."""

    format: Format
    conversations: list[Conversation]
    """Of the rows in which nothing is wrong."""
    mistakes: list[str]


def recognise(
    rows: Sequence[Row], format: Literal["auto"] | Format = "auto", columns: Sequence[str] = ()
) -> Recognised:
    """Read rows as conversations.

    Args:
        format: auto goes by the names of the columns.
        columns: pairs such as "prompt=question": what the lab calls prompt, the data set calls question.

    Raises:
        DataError: the columns fit no format, or the pairs name none that is there.
    """
    rows = _renamed(rows, _mapping(columns))
    names = list(dict.fromkeys(name for row in rows[:100] for name in row.values))
    chosen = _format_of(list(rows[0].values), names) if format == "auto" else format
    lacking = [name for name in NEEDED[chosen] if name not in names]
    if lacking:
        raise DataError(
            f"The format {chosen} needs the columns {' and '.join(NEEDED[chosen])}, but there is no {lacking[0]}: the "
            f"data set has {', '.join(names)}. Say which column it is with columns, such as {lacking[0]}={names[0]}."
        )
    return _read(rows, chosen)


def _format_of(first: Sequence[str], names: Sequence[str]) -> Format:
    for present in (first, names):  # a stray row must not decide for all
        for format, needed in NEEDED.items():
            if all(name in present for name in needed):
                return format
    what = f"The columns {', '.join(names)} fit" if len(names) > 1 else f"The only column, {names[0]}, fits"
    raise DataError(
        f"{what} none of the formats: instruction and output, prompt and completion, or messages. "
        + (
            f"Say which is which with columns, such as prompt={names[0]} completion={names[-1]}."
            if len(names) > 1
            else "A column of what is asked and one of what is answered are needed, or messages with role and content."
        )
    )


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    known = {name for names in (*NEEDED.values(), *OPTIONAL.values()) for name in names}
    for pair in columns:
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if ours not in known:
            raise DataError(f"{ours!r} in columns is no name the lab knows: they are {', '.join(sorted(known))}.")
        mapping[ours] = theirs
    return mapping


def _renamed(rows: Sequence[Row], mapping: Mapping[str, str]) -> Sequence[Row]:
    if not mapping:
        return rows
    there = {name for row in rows for name in row.values}
    for ours, theirs in mapping.items():
        if theirs not in there:
            raise DataError(
                f"There is no column {theirs!r} to take as {ours}: the data set has {', '.join(sorted(there))}."
            )
    back = {theirs: ours for ours, theirs in mapping.items()}
    return [
        Row(row.number, {back.get(name, name): value for name, value in row.values.items() if name not in mapping
                         or name in back})
        for row in rows
    ]  # fmt: skip


# -- one row ------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong with one row, said so that "…: row 7" can follow."""


def _read(rows: Sequence[Row], format: Format) -> Recognised:
    read = {"messages": _from_messages, "instruction": _from_instruction, "prompt_completion": _from_prompt}[format]
    found: list[Conversation] = []
    wrong: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        try:
            found.append(Conversation(read(row.values), row.number))
        except _Wrong as mistake:
            wrong[str(mistake)].append(row.number)
    said = [f"{what}: {rows_said(numbers)} of {len(rows):,}." for what, numbers in wrong.items()]
    return Recognised(format, found, [sentence[0].upper() + sentence[1:] for sentence in said])


def _from_instruction(values: Mapping[str, Any]) -> tuple[Turn, ...]:
    question = _text(values, "instruction")
    more = _text(values, "input", may_lack=True)
    answer = _text(values, "output")
    _not_blank(question, "instruction")
    _not_blank(answer, "output")
    return (*_system(values), Turn("user", f"{question}\n\n{more}" if more.strip() else question),
            Turn("assistant", answer))  # fmt: skip


def _from_prompt(values: Mapping[str, Any]) -> tuple[Turn, ...]:
    question, answer = _text(values, "prompt"), _text(values, "completion")
    _not_blank(question, "prompt")
    _not_blank(answer, "completion")
    return (*_system(values), Turn("user", question), Turn("assistant", answer))


def _from_messages(values: Mapping[str, Any]) -> tuple[Turn, ...]:
    messages = values.get("messages")
    if messages is None:
        raise _Wrong("messages is missing")
    if not isinstance(messages, list):
        raise _Wrong("messages is no list of objects with role and content")
    if not messages:
        raise _Wrong("messages is an empty list")
    turns = [_turn(message) for message in messages]
    roles = [turn.role for turn in turns]
    if "system" in roles[1:]:
        raise _Wrong("a system message stands elsewhere than at the beginning")
    spoken = [role for role in roles if role != "system"]
    if "assistant" not in spoken:
        raise _Wrong("the conversation has no answer (no message of the assistant)")
    if spoken[0] != "user":
        raise _Wrong("the conversation does not begin with the user")
    if any(one == after for one, after in pairwise(spoken)):
        raise _Wrong("user and assistant do not take turns")
    if spoken[-1] != "assistant":
        raise _Wrong("the conversation ends with a question that nobody answers")
    return tuple(turns)


def _turn(message: object) -> Turn:
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise _Wrong("a message is no object with role and content")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise _Wrong(f"a message has the unknown role {str(role)[:30]!r}; the roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise _Wrong(f"the content of a message is {_kind(content)}, not a text")
    if role != "system":
        _not_blank(content, f"a message of the {role}")
    return Turn(role, _clean(content, "a message"))


def _system(values: Mapping[str, Any]) -> tuple[Turn, ...]:
    text = _text(values, "system", may_lack=True)
    return (Turn("system", text),) if text.strip() else ()


def _text(values: Mapping[str, Any], name: str, *, may_lack: bool = False) -> str:
    value = values.get(name)
    if value is None:
        if may_lack:
            return ""
        raise _Wrong(f"{name} is missing")
    if not isinstance(value, str):
        raise _Wrong(f"{name} is {_kind(value)}, not a text")
    return _clean(value, name)


def _clean(text: str, name: str) -> str:
    if "\0" in text:
        raise _Wrong(f"{name} holds a zero byte, which is no text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Wrong(f"{name} holds half a character (a lone surrogate)")
    return text


def _not_blank(text: str, name: str) -> None:
    if not text.strip():
        raise _Wrong(f"{name} is empty" if " " not in name else f"{name} is empty of words")


def _kind(value: object) -> str:
    if value is None:
        return "empty (null)"
    return {list: "a list", dict: "an object", bool: "true or false"}.get(type(value), "a number")
