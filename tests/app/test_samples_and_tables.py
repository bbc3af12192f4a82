import pandas as pd
import pytest

from app.ui.charts import told_apart
from app.ui.messages import plain, sentences
from app.ui.pretraining_form import prediction_of
from app.ui.run_choice import run_label, unused
from app.ui.run_details import settings_table, statements
from app.ui.samples import entries, spread
from lab.config import PRESETS, changed, flat
from lab.errors import ConfigError, DataError


@pytest.mark.parametrize("count", [1, 5, 12, 13, 40, 1_000])
def test_a_thinned_timeline_keeps_its_ends_and_its_order(count: int) -> None:
    places = list(spread(count, 12))
    assert places[0] == 0
    assert places[-1] == count - 1
    assert places == sorted(set(places))
    assert len(places) <= 13


def test_early_samples_stand_closer_together_than_late_ones() -> None:
    places = list(spread(1_000, 12))
    assert places[1] - places[0] < places[-1] - places[-2]


def test_each_sample_says_its_step_and_the_loss_it_was_written_at() -> None:
    written = pd.DataFrame([{"step": 500, "prompt": "KING:", "text": " What say you"}])
    losses = pd.DataFrame({"step": [0, 500], "last": [4.18, 1.94]})
    (entry,) = entries(written, losses)
    assert entry.head == "step 500 · validation 1.94"
    assert entry.pieces == [(" What say you", None)]


def test_names_are_told_apart_only_where_they_are_alike() -> None:
    runs = {"20261120-060101-86be": "a", "20261120-060102-7832": "a", "20261120-060103-a646": "b"}
    assert list(told_apart(runs).values()) == ["a (86be)", "a (7832)", "b"]


def test_a_taken_name_gets_a_number() -> None:
    assert unused("pocket", []) == "pocket"
    assert unused("pocket", ["pocket", "pocket 2"]) == "pocket 3"


def test_a_run_in_a_list_has_a_text_that_never_changes() -> None:
    assert run_label("20261120-060101-86be", "first") == "first · 2026-11-20 06:01 · 86be"


def test_the_settings_table_marks_what_differs_from_the_form() -> None:
    config = changed(PRESETS["pocket"], learning_rate=1e-3)
    table = settings_table(config, flat(PRESETS["pocket"]))
    assert list(table[table["Differs"]]["Name"]) == ["learning_rate"]


def test_every_shown_statement_runs_on_the_record(engine) -> None:
    with engine.cursor() as cursor:
        for sql in statements("20261120-060101-86be").values():
            assert cursor.execute(sql).fetchall() == []


def test_a_guess_needs_a_value_inside_its_range() -> None:
    assert prediction_of((None, None, None)) is None
    assert prediction_of((1.8, None, 2.0)) == (1.8, 1.8, 2.0)
    with pytest.raises(ConfigError, match="does not lie in its range"):
        prediction_of((1.8, 1.9, 2.0))
    with pytest.raises(ConfigError, match="no expected value"):
        prediction_of((None, 1.0, 2.0))


def test_all_mistakes_of_a_config_are_said() -> None:
    assert sentences(ConfigError(["One.", "Two."])) == ["One.", "Two."]
    assert sentences(DataError("Too short.")) == ["Too short."]


def test_a_name_is_never_taken_for_markdown() -> None:
    assert plain("**my** $run$ :material/home:") == r"\*\*my\*\* \$run\$ \:material/home\:"
