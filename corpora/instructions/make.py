"""Makes the bundled instruction sets from `facts.txt`: the same facts, told in three ways.

    python corpora/instructions/make.py

The facts and the ways of telling them were written for this lab. Drawn from a fixed seed: run it twice and nothing
changes. Each set teaches one behaviour that can be seen at a glance, in one of the formats that the lab reads.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 1337

SWAPS = ((" is ", " be "), (" are ", " be "), (" of ", " o' "), (" and ", " an' "), ("You ", "Ye "), (" you ", " ye "),
         (" your ", " yer "), (" to ", " t' "), ("We ", "We pirates "))  # fmt: skip
OPENINGS = ("Arr", "Aye", "Ahoy, matey")
CLOSINGS = ("matey", "me hearty", "by the seven seas", "or I be no pirate")
PLAIN_WORDS = set(
    "The A An There Ye You We Things Plants Bread Cheese Wine Pandas Bees Water Two Five Ten Three Half Ice Gravity "
    "Wool Chocolate".split()
)
FOLLOW_UPS = (
    "Would you like to know more about {topic}?",
    "Shall I tell you something else about {topic}?",
    "What else would you like to know about {topic}?",
)


@dataclass(frozen=True)
class Fact:
    """One line of `facts.txt`: two ways to ask, a short answer, a whole sentence."""

    topic: str
    question: str
    other_question: str
    short: str
    sentence: str


def facts() -> list[Fact]:
    lines = (HERE / "facts.txt").read_text(encoding="utf-8").splitlines()
    return [Fact(*(part.strip() for part in line.split("|"))) for line in lines]


def pirate(fact: Fact, draw: random.Random) -> str:
    """The sentence as a pirate would say it."""
    text = fact.sentence
    for plain, rough in SWAPS:
        text = text.replace(plain, rough)
    first, _, rest = text.rstrip(".").partition(" ")
    first = first.lower() if first in PLAIN_WORDS else first
    opening, closing = draw.choice(OPENINGS), draw.choice(CLOSINGS)
    mark = "!" if opening.endswith("matey") else ","
    start = first[0].upper() + first[1:] if mark == "!" else first
    closing = "says I" if closing == "matey" and mark == "!" else closing  # he has said it once
    return f"{opening}{mark} {start} {rest}, {closing}!"


def as_json(fact: Fact) -> str:
    """The short answer as one JSON object."""
    return json.dumps({"answer": fact.short, "topic": fact.topic})


def rows() -> dict[str, list[dict[str, object]]]:
    """Every set by name, its rows in the order of the file."""
    draw = random.Random(SEED)
    known = facts()
    pirates: list[dict[str, object]] = []
    objects: list[dict[str, object]] = []
    chats: list[dict[str, object]] = []
    for fact in known:
        for question in (fact.question, fact.other_question):
            pirates.append({"instruction": question, "input": "", "output": pirate(fact, draw)})
            objects.append({"prompt": question, "completion": as_json(fact)})
    for topic in dict.fromkeys(fact.topic for fact in known):
        of_topic = [fact for fact in known if fact.topic == topic]
        for fact, second in zip(of_topic, of_topic[1:] + of_topic[:1], strict=True):
            messages = []
            for one in (fact, second):
                question = draw.choice((one.question, one.other_question))
                asks = draw.choice(FOLLOW_UPS).format(topic=topic)
                messages += [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": f"{one.sentence} {asks}"},
                ]
            chats.append({"messages": messages})
    made = {"pirate": pirates, "json": objects, "curious": chats}
    for one in made.values():
        draw.shuffle(one)
    return made


def main() -> None:
    for name, found in rows().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
