"""What the forecast does for a run: refuses what the system would kill, and is laid beside a real step."""

import json
from pathlib import Path

import pytest

from lab.config import PretrainConfig, changed
from lab.data.corpora import find_corpus, read_text
from lab.forecast import adviser
from lab.forecast.adviser import MemoryAdviser
from lab.forecast.memory import forecast
from lab.rundir import RunDir, create_run
from lab.training.account import RESERVED_METRIC, STEP_METRIC
from lab.training.memory import TooLargeError
from lab.training.run import Outcome, train_run
from tests.training.helpers import RowList, small

pytestmark = pytest.mark.filterwarnings("ignore")

MIB = 2**20


def advised(config: PretrainConfig) -> tuple[RunDir, RowList, Outcome]:
    run, rows = create_run(config), RowList()
    return run, rows, train_run(run, rows, None, MemoryAdviser())


def test_a_run_that_the_system_would_kill_is_not_started_and_three_changes_that_fit_are_named(
    lab_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"emb_dim": 64, "context_length": 64, "batch_size": 64, "attention_impl": "manual"}
    config = changed(small(**large), vocab_size=len(set(read_text(find_corpus("tiny")))))
    limit = round(0.6 * forecast(config, "cpu").peak_bytes)
    monkeypatch.setattr(adviser, "free_memory", lambda: (limit // 2, limit))
    run, rows, outcome = advised(config)
    assert (outcome.status, outcome.steps) == ("failed", 0)
    assert outcome.error is not None
    assert outcome.error.startswith("Not started: the run needs about ")
    assert "What would fit: " in outcome.error
    assert not rows.metric("train/loss")
    (event,) = rows.messages("out_of_memory")
    assert "this computer has no more than" in event
    found = run.info()["out_of_memory"]
    assert found["phase"] == "start"
    assert len(found["advice"]) == 3
    monkeypatch.setattr(adviser, "free_memory", lambda: (limit, limit))
    for one in found["advice"]:
        MemoryAdviser().foresee(changed(config, **one["changes"]))  # does not refuse


@pytest.mark.parametrize(("share", "says"), [(1.01, ""), (0.9, "the computer may become slow")])
def test_swapping_is_warned_of_and_what_fits_is_not(monkeypatch: pytest.MonkeyPatch, share: float, says: str) -> None:
    config = small(batch_size=16)
    found = forecast(config, "cpu")
    need = found.peak_bytes + found.checkpoint_bytes
    monkeypatch.setattr(adviser, "free_memory", lambda: (round(share * need), 2 * need))
    foreseen = MemoryAdviser().foresee(config)
    assert says in foreseen.warning
    assert bool(foreseen.warning) == bool(says)


def test_one_byte_less_than_the_need_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small()
    need = MemoryAdviser().foresee(config).needed_bytes
    monkeypatch.setattr(adviser, "free_memory", lambda: (need, need))
    assert MemoryAdviser().foresee(config).warning == ""
    monkeypatch.setattr(adviser, "free_memory", lambda: (need - 1, need - 1))
    with pytest.raises(TooLargeError):
        MemoryAdviser().foresee(config)


def test_a_runs_first_step_is_followed_and_comes_to_what_was_forecast(lab_home: Path) -> None:
    config = small(emb_dim=64, context_length=64, batch_size=16, drop_rate=0.1, max_steps=4)
    run, rows, outcome = advised(config)
    assert outcome.status == "finished"
    predicted = {row["metric"]: row["predicted"] for row in rows.tables["predictions"]}
    assert outcome.outcomes[STEP_METRIC] == pytest.approx(predicted[STEP_METRIC], rel=0.01)
    assert RESERVED_METRIC not in predicted, "a CPU's allocator is not asked"
    memory = run.info()["memory"]
    assert memory["step_measured_bytes"] == round(outcome.outcomes[STEP_METRIC] * 2**30)
    curves = json.loads(run.memory_path.read_text())
    for name, wanted in (("forecast", memory["step_forecast_bytes"]), ("measured", memory["step_measured_bytes"])):
        assert max(sum(point["kinds"].values()) for point in curves[name]) == wanted


def test_being_followed_changes_no_number_of_a_run(lab_home: Path) -> None:
    config = small(drop_rate=0.1, max_steps=4)
    _, followed, _ = advised(config)
    alone = RowList()
    train_run(create_run(config), alone)
    assert followed.learned() == alone.learned()
