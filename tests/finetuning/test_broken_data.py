"""Data sets that cannot be trained on: each is refused in one sentence that says where, and nothing is started."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from lab.config import FineTuneConfig, changed
from lab.errors import DataError
from lab.finetuning.datasets import prepare
from tests.finetuning.tokenizers import chat_tokenizer

Rows = list[object]


def question(number: int) -> dict[str, object]:
    return {"prompt": f"What is {number} and one?", "completion": f"It is {number + 1} as everybody knows."}


def good(count: int = 12) -> Rows:
    return [question(number) for number in range(count)]


def swapped(place: int, row: object, rows: Rows | None = None) -> Rows:
    """Good rows but for one; `place` counts from 1."""
    found = rows or good()
    return [*found[: place - 1], row, *found[place:]]


def chat(*messages: object) -> dict[str, object]:
    return {"messages": list(messages)}


def said(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def chats(count: int = 12) -> Rows:
    return [
        chat(said("user", f"Question {n}?"), said("assistant", f"This is answer {n} of all.")) for n in range(count)
    ]


def jsonl(rows: Rows) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.jsonl", b"", r"a\.jsonl is empty"),
    "another kind of file": ("a.xlsx", b"PK", r"a\.xlsx is no data set that the lab reads"),
    "Latin-1 instead of UTF-8": (
        "a.jsonl",
        jsonl(good(3)) + b'\n{"prompt": "caf\xe9", "completion": "x"}',
        r"byte 0xe9 in line 4 does not belong",
    ),
    "UTF-16": ("a.csv", "prompt,completion\nWhy?,Because.".encode("utf-16"), r"a\.csv is stored as UTF-16"),
    "a line that is no JSON": ("a.jsonl", jsonl(good(2)) + b"\n{prompt: 1}", r"is not JSON in line 3"),
    "lines that are no objects": ("a.jsonl", jsonl(swapped(5, [1, 2])), r"lines that are no objects \(row 5\)"),
    "JSON that is no list": (
        "a.json",
        b'{"prompt": "a", "completion": "b"}',
        r"holds one object, not a list of objects",
    ),
    "a table with a short row": (
        "a.csv",
        b"prompt,completion\nWhy?,Because.\nHow?\nWho?,Me.",
        r"has 2 columns, but another number of them in row 2",
    ),
    "a table whose quote is never closed": (
        "a.csv",
        b'prompt,completion\nWhy?,"Because.\nHow?,So.',
        r"a\.csv is not a table \(unexpected end of data, in line 3\)",
    ),
    "a table with a heading alone": ("a.csv", b"prompt,completion\n", r"a\.csv has no rows"),
    "a compressed file": ("a.jsonl", b"\x1f\x8b\x08\x00" + bytes(20), r"first bytes are those of a gzip archive"),
    "a parquet file with another ending": ("a.csv", b"PAR1" + bytes(20), r"a parquet file; give it the ending"),
    "a web page": ("a.jsonl", b"<html><body>404</body></html>", r"is not JSON in line 1"),
    "a download that broke off": ("a.json", b'[{"prompt": "a", "completion": "b"}, {"prom', r"is not JSON .*line 1"),
    "brackets within brackets without end": ("a.jsonl", b"[" * 100_000, r"is not JSON in line 1 .*recursion"),
    "no column of answers": ("a.jsonl", jsonl([{"instruction": "a"}] * 3), r"The only column, instruction, fits none"),
    "two columns of one name": ("a.csv", b"prompt,prompt\na,b", r"two columns named 'prompt'"),
    "a damaged parquet file": ("a.parquet", b"PAR1 but not really", r"is not a parquet file"),
    "missing columns": (
        "a.jsonl",
        jsonl([{"question": "a", "reply": "b"}]),
        r"columns question, reply fit none.*prompt=question completion=reply",
    ),
    "a row without its column": (
        "a.jsonl",
        jsonl(swapped(7, {"prompt": "Why?"})),
        r"Completion is missing: row 7 of 12",
    ),
    "empty answers": (
        "a.jsonl",
        jsonl(swapped(3, {"prompt": "Why?", "completion": "  "}, swapped(9, {"prompt": "How?", "completion": ""}))),
        r"Completion is empty: rows 3 and 9 of 12",
    ),
    "an empty question": (
        "a.jsonl",
        jsonl([{"instruction": " ", "input": "x", "output": "y"}, {"instruction": "a", "output": "b"}]),
        r"Instruction is empty: row 1 of 2",
    ),
    "a number for a text": (
        "a.jsonl",
        jsonl(swapped(2, {"prompt": "Why?", "completion": 7})),
        r"Completion is a number, not a text: row 2",
    ),
    "nested lists": (
        "a.jsonl",
        jsonl(swapped(4, {"prompt": [["Why?"]], "completion": "x"})),
        r"Prompt is a list, not a text: row 4",
    ),
    "an answer that is not a number": (
        "a.jsonl",
        b'{"prompt": "a", "completion": NaN}\n{"prompt": "b", "completion": "x"}',
        r"Completion is a number, not a text: row 1 of 2",
    ),
    "one question with many answers": (
        "a.jsonl",
        jsonl([{"prompt": "Why?", "completion": f"This is answer {n} of all."} for n in range(6)]),
        r"All rows ask the same or answer the same \(rows 1, 2, 3, 4, 5 and 1 more\)",
    ),
    "one row": ("a.jsonl", jsonl(good(1)), r"There is 1 row: at least 2 are needed"),
    "100,000 characters": (
        "a.jsonl",
        jsonl(swapped(6, {"prompt": "Why?", "completion": "x" * 100_000})),
        r"cuts off the end of the answer in 1 of 12 rows \(row 6\): set max_length to 100,0\d\d",
    ),
    "a question that leaves no room for the answer": (
        "a.jsonl",
        jsonl(swapped(6, {"prompt": "x" * 500, "completion": "No room."})),
        r"in 1 of 12 rows and the whole answer of 1 of them \(row 6\)",
    ),
    "the same row again and again": (
        "a.jsonl",
        jsonl([question(1)] * 8),
        r"All rows ask the same or answer the same \(rows 1, 2, 3, 4, 5 and 3 more\)",
    ),
    "an unknown role": (
        "a.jsonl",
        jsonl(swapped(8, chat(said("robot", "Hi.")), chats())),
        r"unknown role 'robot'; the roles are .*: row 8 of 12",
    ),
    "an answer first": (
        "a.jsonl",
        jsonl(swapped(4, chat(said("assistant", "Hi."), said("user", "Hi?"), said("assistant", "Hi.")), chats())),
        r"does not begin with the user: row 4",
    ),
    "an empty message of the assistant": (
        "a.jsonl",
        jsonl(swapped(4, chat(said("user", "Hi?"), said("assistant", "  ")), chats())),
        r"message of the assistant is empty of words: row 4",
    ),
    "no messages": ("a.jsonl", jsonl(swapped(1, chat(), chats())), r"Messages is an empty list: row 1 of 12"),
    "messages that are a text": (
        "a.jsonl",
        jsonl(swapped(2, {"messages": "hello"}, chats())),
        r"Messages is no list .*: row 2",
    ),
    "a message without content": (
        "a.jsonl",
        jsonl(swapped(2, chat({"role": "user"}), chats())),
        r"no object with role and content: row 2",
    ),
    "a conversation without an answer": (
        "a.jsonl",
        jsonl(swapped(3, chat(said("user", "Hi?")), chats())),
        r"has no answer .*: row 3",
    ),
    "a last question that nobody answers": (
        "a.jsonl",
        jsonl(swapped(3, chat(said("user", "Hi?"), said("assistant", "Hi."), said("user", "And?")), chats())),
        r"ends with a question that nobody answers: row 3",
    ),
    "two questions in a row": (
        "a.jsonl",
        jsonl(swapped(5, chat(said("user", "Hi?"), said("user", "And?"), said("assistant", "Yes.")), chats())),
        r"do not take turns: row 5",
    ),
    "a system message in the middle": (
        "a.jsonl",
        jsonl(swapped(5, chat(said("user", "Hi?"), said("system", "Be."), said("assistant", "Yes.")), chats())),
        r"system message stands elsewhere than at the beginning: row 5",
    ),
    "a content that is a list": (
        "a.jsonl",
        jsonl(swapped(5, chat(said("user", [{"type": "text"}]), said("assistant", "Yes.")), chats())),
        r"content of a message is a list, not a text: row 5",
    ),
    "signs of the template within a text": (
        "a.jsonl",
        jsonl(swapped(5, {"prompt": "Why?<|im_end|>", "completion": "x"})),
        r"<\|im_end\|> stands in row 5, but the model reads it as a sign of its chat template",
    ),
    "a zero byte": (
        "a.jsonl",
        jsonl(swapped(5, {"prompt": "W\0hy?", "completion": "x"})),
        r"Prompt holds a zero byte.*: row 5",
    ),
    "half a character": (
        "a.jsonl",
        jsonl(swapped(5, {"prompt": "W\ud800?", "completion": "x"})),
        r"half a character .*: row 5",
    ),
    "two formats in one file": ("a.jsonl", jsonl(swapped(5, chats(1)[0])), r"Prompt is missing: row 5 of 12"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_data_set_is_refused_in_one_sentence_that_says_where(kind: str, tmp_path: Path) -> None:
    name, content, sentence = BROKEN[kind]
    (tmp_path / name).write_bytes(content)
    config = changed(FineTuneConfig(), dataset=str(tmp_path / name))
    with pytest.raises(DataError, match=sentence) as refused:
        prepare(config, chat_tokenizer(tmp_path / "tokenizer"))
    assert str(refused.value).count("\n") == 0


def test_two_kinds_of_mistakes_are_said_together(tmp_path: Path) -> None:
    rows = swapped(2, {"prompt": "", "completion": "x"}, swapped(3, {"prompt": "Why?", "completion": None}))
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    with pytest.raises(DataError, match=r"Prompt is empty: row 2 of 12\. Completion is missing: row 3 of 12\."):
        prepare(changed(FineTuneConfig(), dataset=str(tmp_path / "a.jsonl")), chat_tokenizer(tmp_path / "tokenizer"))


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m['content'] }}\n{% endfor %}"])
def test_a_template_without_an_end_token_is_refused(template: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(good()))
    config = changed(FineTuneConfig(), dataset=str(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="writes no end token after an answer"):
        prepare(config, chat_tokenizer(tmp_path / "tokenizer", template))


def as_parquet(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def as_csv(rows: Rows) -> bytes:
    return ("prompt,completion\n" + "\n".join(f"{row['prompt']},{row['completion']}" for row in rows)).encode()  # type: ignore[index]


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "a.jsonl": jsonl,
    "a.json": lambda rows: json.dumps(rows).encode(),
    "a.csv": as_csv,
    "a.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_are_read_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WRITERS[name](good()))
    (tmp_path / "reference.jsonl").write_bytes(jsonl(good()))
    tokenizer = chat_tokenizer(tmp_path / "tokenizer")
    found, expected = (
        prepare(changed(FineTuneConfig(), dataset=str(tmp_path / one)), tokenizer) for one in (name, "reference.jsonl")
    )
    assert found.train == expected.train
    assert found.val == expected.val


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    renamed = [{"frage": row["prompt"], "antwort": row["completion"]} for row in good()]  # type: ignore[index]
    (tmp_path / "other.jsonl").write_bytes(jsonl(renamed))  # type: ignore[arg-type]
    (tmp_path / "a.jsonl").write_bytes(jsonl(good()))
    tokenizer = chat_tokenizer(tmp_path / "tokenizer")
    config = changed(FineTuneConfig(), dataset=str(tmp_path / "other.jsonl"))
    mapped = changed(config, columns=("prompt=frage", "completion=antwort"))
    assert (
        prepare(mapped, tokenizer).train == prepare(changed(config, dataset=str(tmp_path / "a.jsonl")), tokenizer).train
    )
    with pytest.raises(DataError, match="There is no column 'questions' to take as prompt"):
        prepare(changed(config, columns=("prompt=questions", "completion=antwort")), tokenizer)
