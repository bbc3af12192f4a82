"""What is printed for people, and for programs."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lab.cli.output import facts, human_bytes, human_seconds, plain, print_json, table


def test_a_document_is_json_whatever_a_command_found(capsys):
    print_json(
        {
            "int": np.int64(3),
            "float": np.float32(0.5),
            "nan": float("nan"),
            "when": pd.Timestamp("2026-11-20", tz="UTC"),
            "never": pd.NaT,
            "path": Path("a/b"),
            "many": (1, None, "␣é"),
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "int": 3,
        "float": 0.5,
        "nan": None,
        "when": "2026-11-20T00:00:00+00:00",
        "never": None,
        "path": "a/b",
        "many": [1, None, "␣é"],
    }


def test_a_time_keeps_its_zone():
    assert plain(datetime(2026, 11, 20, tzinfo=UTC)) == "2026-11-20T00:00:00+00:00"


def test_words_stand_left_and_numbers_right():
    rows = [{"name": "a", "n": 5}, {"name": "longer", "n": 1234}]
    assert table(rows).splitlines() == ["name        n", "──────  ─────", "a           5", "longer  1,234"]


def test_an_unknown_value_is_a_dash_and_a_newline_is_visible():
    assert table([{"name": "a\nb", "n": None}]).splitlines()[-1] == "a⏎b   –"


def test_no_rows_make_no_table():
    assert table([]) == ""


def test_facts_are_aligned():
    assert facts({"a": True, "long name": 0.123456}) == "a          yes\nlong name  0.1235"


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (1_115_394, "1.1 MB"), (269_000_000, "269.0 MB"), (16e9, "16.00 GB")]
)
def test_bytes_as_people_say_them(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(38.2, "38 s"), (240, "4 min"), (7500, "2 h 5 min")])
def test_seconds_as_people_say_them(seconds, text):
    assert human_seconds(seconds) == text
