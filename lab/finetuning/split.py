"""Training and validation rows that share nothing: rows that say the same stand on one side."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from lab.errors import DataError
from lab.finetuning.formats import Conversation
from lab.finetuning.rows import rows_said

LONG_ANSWER = 5
"""Words from which on an equal answer is no accident; shorter ones ("yes", a class) say little."""


def groups_of(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Which rows say the same: equal questions, or equal answers of at least five words.

    Returns:
        Places in `conversations`, grouped; groups in the order of their first row.
    """
    parent = list(range(len(conversations)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    seen: dict[tuple[str, str], int] = {}
    for place, conversation in enumerate(conversations):
        for key in _keys(conversation):
            first = seen.setdefault(key, place)
            one, other = sorted((root(first), root(place)))
            parent[other] = one
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place in range(len(conversations)):
        groups[root(place)].append(place)
    return list(groups.values())


def split(conversations: Sequence[Conversation], val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Places of the training and of the validation rows, each in the order of the file.

    Raises:
        DataError: there is nothing to divide: one row, or all rows say the same.
    """
    if len(conversations) < 2:
        raise DataError("There is 1 row: at least 2 are needed, one to learn from and one to validate with.")
    groups = groups_of(conversations)
    if len(groups) < 2:
        numbers = [conversations[place].row for place in groups[0]]
        raise DataError(
            f"All rows ask the same or answer the same ({rows_said(numbers)}), so none can be kept for validation: add "
            "rows with other questions."
        )
    target = max(1, round(val_fraction * len(conversations)))
    order = list(groups)
    random.Random(seed).shuffle(order)
    val: list[int] = []
    for group in order:
        if len(val) + len(group) <= target:
            val += group
    if not val:
        val = list(sorted(groups, key=len)[0])
    chosen = set(val)
    return [place for place in range(len(conversations)) if place not in chosen], sorted(val)


def _keys(conversation: Conversation) -> list[tuple[str, str]]:
    question = "\n".join(f"{turn.role}: {_plain(turn.content)}" for turn in conversation.question)
    keys = [("question", question)]
    answers = "\n".join(_plain(answer) for answer in conversation.answers)
    if len(answers.split()) >= LONG_ANSWER:
        keys.append(("answer", answers))
    return keys


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()
