from datetime import UTC, datetime, timedelta

import pytest

from app.ui import words


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (1240, "1,240"), (99_999, "99,999"), (804_096, "0.80 M"), (30_500_000, "30.5 M"), (1.24e9, "1.24 B")],
)
def test_counts_are_said_as_people_say_them(number: float, said: str) -> None:
    assert words.count(number) == said


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(12, "12 bytes"), (3_200, "3.1 KiB"), (3_250_585, "3.1 MiB"), (0.41 * 2**30, "0.41 GiB"), (24 * 2**30, "24 GiB")],
)
def test_bytes_are_said_in_binary_units(n_bytes: float, said: str) -> None:
    assert words.data(n_bytes) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(38, "38 s"), (200, "3 min 20 s"), (3000, "50 min"), (7500, "2 h 5 min"), (273_600, "3 days 4 h"), (-1, "0 s")],
)
def test_durations_are_said_in_the_units_one_waits_in(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_perplexity_is_e_to_the_loss() -> None:
    assert words.perplexity(1.94) == "7.0"
    assert words.perplexity(10.82) == "50,011"


def test_a_moment_is_told_by_how_long_ago_it_was() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert words.ago(now - timedelta(seconds=5), now=now) == "just now"
    assert words.ago(now - timedelta(minutes=12), now=now) == "12 min ago"
    assert words.ago(now - timedelta(hours=3), now=now) == "3 h ago"
    assert words.ago(None) == ""
