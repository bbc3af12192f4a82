"""Twenty rounds of the fault harness; `make faults` runs two hundred."""

import pytest

from benchmarks.faults.__main__ import rounds, run_round

SEED = 7


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(20))
def test_nothing_acknowledged_is_lost_whatever_breaks(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", "")  # the rounds set it; put back afterwards
    name, verdict = run_round(number, SEED)
    assert verdict.is_good, f"{name}: {verdict}"


def test_the_rounds_cover_every_kind() -> None:
    kinds = {kind.__name__ for kind in rounds()}
    assert {"pretraining", "ingest", "checkpointing", "migration", "archive"} <= kinds
    assert {"damaged_log", "damaged_segment", "damaged_checkpoint", "damaged_archive"} <= kinds
