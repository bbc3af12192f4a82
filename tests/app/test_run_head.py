import pandas as pd

from app.ui.run_head import guess_words, in_plain_words, metrics_panel
from lab.store import Latest


def guesses(predicted: float, low: float, high: float) -> pd.DataFrame:
    row = {"metric": "val/loss", "predicted": predicted, "low": low, "high": high, "who": "person"}
    return pd.DataFrame([row])


NOTHING = pd.DataFrame({"last": []})


def test_the_panel_has_the_same_figures_before_and_after_they_are_measured() -> None:
    before = metrics_panel({}, NOTHING)
    after = metrics_panel({"val/loss": Latest(1.94, 500), "train/mfu": Latest(0.31, 500)}, NOTHING)
    assert [figure.label for figure in before] == [figure.label for figure in after]
    assert {figure.value for figure in before} == {"–"}


def test_the_validation_loss_shows_its_change_since_the_evaluation_before() -> None:
    history = pd.DataFrame({"last": [4.18, 2.06, 1.94]})
    figure = metrics_panel({"val/loss": Latest(1.94, 500)}, history)[0]
    assert (figure.value, figure.delta) == ("1.94", "-0.12")


def test_a_loss_is_put_into_words_by_what_it_is_as_unsure_as() -> None:
    assert "among 7.0 equally likely ones" in in_plain_words({"val/loss": Latest(1.94, 500)}, 65)
    assert in_plain_words({"val/loss": Latest(4.18, 0)}, 65).startswith("It knows nothing yet")
    assert in_plain_words({"val/loss": Latest(6.0, 9)}, 65).startswith("Worse than knowing nothing")


def test_a_guess_stands_beside_what_came() -> None:
    newest = {"val/loss": Latest(1.9, 2_000)}
    assert "Now: 1.90" in guess_words(guesses(1.8, 1.7, 1.95), newest, finished=False)
    assert "within your range" in guess_words(guesses(1.8, 1.7, 1.95), newest, finished=True)
    assert "0.30 above your guess" in guess_words(guesses(1.6, 1.5, 1.7), newest, finished=True)
    assert guess_words(pd.DataFrame(), newest, finished=True) == ""
