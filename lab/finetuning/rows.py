"""Rows of a data set as they stand in its file, each with its number.

    pirate                  a bundled set (`corpora/instructions`)
    my-set                  one that was uploaded, kept under outputs/.cache/datasets
    OWNER/NAME              one of the hub, after `lab datasets pull OWNER/NAME`
    path/to/rows.jsonl      a file: jsonl, json (a list of objects), csv, parquet

Nothing is repaired: a file that is not what it says is refused in one sentence that names the line.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import paths
from lab.data.own_texts import decode_text, read_bytes
from lab.errors import DataError
from lab.files import read_json, write_bytes
from lab.models.registry import is_hub_id

KINDS = (".jsonl", ".json", ".csv", ".parquet")
NOTE = "lab-dataset.json"
"""Beside the files of a data set from the hub; written last, so that it is there when they are."""
MOST_ROWS = 1_000_000
"""More than this would not fit into memory as Python objects."""


@dataclass(frozen=True)
class Row:
    """One row as it was found."""

    number: int
    """The line of a jsonl file; else the how-manieth row, without a heading line. From 1."""
    values: dict[str, Any]


@dataclass(frozen=True)
class BundledSet:
    """A set that ships with the lab."""

    name: str
    title: str
    description: str
    licence: str = "Written for this lab; CC0 1.0, no rights reserved."

    @property
    def path(self) -> Path:
        return instructions_folder() / f"{self.name}.jsonl"


BUNDLED = (
    BundledSet("pirate", "Talk like a pirate", "260 simple questions, each answered as a pirate would."),
    BundledSet("json", "Answer as JSON", "260 simple questions, each answered with one JSON object."),
    BundledSet("curious", "Ask back", "130 conversations of two turns: an answer, then a question back."),
)


def instructions_folder() -> Path:
    """Where the bundled sets are: read only."""
    return paths.bundled_corpora() / "instructions"


def own_folder() -> Path:
    """Where uploaded sets are kept."""
    return paths.cache() / "datasets"


def dataset_names() -> list[str]:
    """Every set that can be named: the bundled ones, then the person's own."""
    own = sorted(path.name for path in own_folder().glob("*") if path.suffix in KINDS)
    return [one.name for one in BUNDLED] + own + sorted(note["name"] for note in pulled_notes())


def pulled_notes() -> list[dict[str, Any]]:
    """What is remembered of each data set that was pulled from the hub: name, revision, files, pulled_at."""
    return [read_json(path) for path in own_folder().glob(f"*/{NOTE}")]


def pulled_place(hub_id: str) -> Path:
    """Where a data set of the hub lies, or will lie."""
    return own_folder() / hub_id.replace("/", "--")


def find_dataset(text: str) -> Path:
    """The file of a data set; of one from the hub the folder of its files.

    Raises:
        DataError: there is none of this name, or it is of a kind that the lab does not read.
    """
    for one in BUNDLED:
        if text == one.name:
            return one.path
    for path in (own_folder() / Path(text).name, Path(text).expanduser()):
        if path.is_file():
            if path.suffix.lower() not in KINDS:
                raise DataError(f"{path.name} is no data set that the lab reads: give jsonl, json, csv or parquet.")
            return path
        if path.is_dir():
            raise DataError(f"{text} is a folder: a data set is one file (jsonl, json, csv or parquet).")
    if is_hub_id(text):
        if (pulled_place(text) / NOTE).is_file():
            return pulled_place(text)
        raise DataError(
            f"There is no file {text}, and no data set of that name was pulled: `lab datasets pull {text}`."
        )
    raise DataError(
        f"There is no data set {text!r} and no file of that name: the bundled ones are "
        f"{', '.join(one.name for one in BUNDLED)}; or give the path of a jsonl, json, csv or parquet file."
    )


def add_dataset(name: str, content: bytes) -> str:
    """Keep an uploaded file; returns the name that a config stores. The same file again changes nothing.

    Raises:
        DataError: it cannot be read, or another set has the name.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in KINDS:
        raise DataError(f"{name} is no data set that the lab reads: give jsonl, json, csv or parquet.")
    short = (re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-.") or "rows") + suffix
    parse(content, suffix, name)
    path = own_folder() / short
    if path.exists() and path.read_bytes() != content:
        raise DataError(f"There is already another data set named {short}: rename this file first.")
    if not path.exists():
        write_bytes(path, content)
    return short


def read_dataset(text: str) -> list[Row]:
    """The rows of a data set, in the order of the file.

    Raises:
        DataError: it is not there, or not what it says it is.
    """
    path = find_dataset(text)
    if path.is_file():
        return parse(read_bytes(path), path.suffix.lower(), path.name)
    rows: list[Row] = []
    for name in read_json(path / NOTE)["files"]:  # rows are counted on through the files
        part = parse(read_bytes(path / name), Path(name).suffix.lower(), name)
        rows += [Row(len(rows) + place, row.values) for place, row in enumerate(part, start=1)]
    return rows


def parse(content: bytes, suffix: str, name: str) -> list[Row]:
    """The rows in a file's bytes.

    Raises:
        DataError: one sentence that says what is wrong, and where.
    """
    if suffix == ".parquet":
        rows = _parquet(content, name)
    else:
        for begins, what in _NO_TEXT.items():
            if content.startswith(begins):
                raise DataError(f"{name} is no text: its first bytes are those of {what}.")
        text = decode_text(content, name)
        rows = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[suffix](text, name)
    if not rows:
        raise DataError(f"{name} has no rows: there is nothing to learn from.")
    if len(rows) > MOST_ROWS:
        raise DataError(f"{name} has {len(rows):,} rows; the lab reads at most {MOST_ROWS:,}: take a part of them.")
    return rows


def rows_said(numbers: Sequence[int]) -> str:
    """Row numbers as a person says them: "row 7", "rows 3, 5 and 9", "rows 1, 2, 3, 4, 5 and 12 more"."""
    first = [f"{number:,}" for number in numbers[:5]]
    if len(numbers) == 1:
        return f"row {first[0]}"
    if len(numbers) > 5:
        return f"rows {', '.join(first)} and {len(numbers) - 5:,} more"
    return f"rows {', '.join(first[:-1])} and {first[-1]}"


_NO_TEXT = {
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save the sheet as csv",
    b"PAR1": "a parquet file; give it the ending .parquet",
}
"""What is often given an ending of text, by how it begins."""


# -- each kind of file --------------------------------------------------------------------------------------


def _jsonl(text: str, name: str) -> list[Row]:
    rows, wrong = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # the second: brackets within brackets, thousands deep
            raise DataError(f"{name} is not JSON in line {number:,} ({error}): each line is one object.") from error
        if isinstance(value, dict):
            rows.append(Row(number, value))
        else:
            wrong.append(number)
    if wrong:
        raise DataError(
            f"{name} has lines that are no objects ({rows_said(wrong)}): each line looks like "
            '{"prompt": "…", "completion": "…"}.'
        )
    return rows


def _json(text: str, name: str) -> list[Row]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON ({error}): mend it, or save it as jsonl, one object a line.") from error
    if not isinstance(value, list):
        raise DataError(f"{name} holds one {_kind(value)}, not a list of objects: put the rows into a list.")
    wrong = [number for number, one in enumerate(value, start=1) if not isinstance(one, dict)]
    if wrong:
        raise DataError(f"{name} has entries that are no objects ({rows_said(wrong)}): every row needs named values.")
    return [Row(number, one) for number, one in enumerate(value, start=1)]


def _csv(text: str, name: str) -> list[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a long answer is no mistake
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise DataError(
            f"{name} is not a table ({error}, in line {reader.line_num:,}): quote texts that hold commas or line "
            "breaks, and close each quote."
        ) from error
    heading = [column.strip() for column in lines[0]]
    twice = sorted({column for column in heading if heading.count(column) > 1})
    if twice:
        raise DataError(f"{name} has two columns named {twice[0]!r}: give each column a name of its own.")
    wrong = [number for number, line in enumerate(lines[1:], start=1) if len(line) != len(heading)]
    if wrong:
        raise DataError(
            f"{name} has {len(heading)} columns, but another number of them in {rows_said(wrong)}: quote texts that "
            "hold commas."
        )
    return [Row(number, dict(zip(heading, line, strict=True))) for number, line in enumerate(lines[1:], start=1)]


def _parquet(content: bytes, name: str) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{name} is not a parquet file ({reason}): download or save it again.") from error
    return [Row(number, values) for number, values in enumerate(table.to_pylist(), start=1)]


def _kind(value: object) -> str:
    return {dict: "object", str: "text", bool: "truth value"}.get(
        type(value), "number" if value is not None else "null"
    )
