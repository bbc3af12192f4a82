"""The induction experiment measures what it says, and its stored figures bear its claims."""

import json

import numpy as np
import pytest
import torch

from benchmarks.induction import HELD_OUT, LENGTH, LOOK_EVERY, TRAINED, VOCABULARY, examination, train, training_texts
from benchmarks.results import FOLDER


def distances(row: list[int]) -> set[int]:
    """How far apart equal tokens of a text lie."""
    return {j - i for i in range(len(row)) for j in range(i + 1, len(row)) if row[i] == row[j]}


def test_no_training_text_repeats_anything_at_a_held_out_distance() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    seen: set[int] = set()
    for _ in range(20):
        for row in training_texts(generator, repeats=True).tolist():
            seen |= distances(row)
    assert seen.isdisjoint(HELD_OUT)
    assert set(TRAINED) <= seen


def test_texts_without_repeats_have_none() -> None:
    for row in training_texts(np.random.Generator(np.random.PCG64(0)), repeats=False).tolist():
        assert len(set(row)) == len(row) == LENGTH + 1


@pytest.mark.parametrize("n", HELD_OUT)
def test_the_examination_is_a_stretch_said_twice_and_a_text_of_different_tokens(n: int) -> None:
    twice, different = examination(n)
    assert torch.equal(twice[:, :n], twice[:, n:])
    assert distances(twice[0].tolist()) == {n}
    assert not distances(different[0].tolist())
    assert twice.max() < VOCABULARY
    assert torch.equal(twice, examination(n)[0])


def test_a_run_reports_all_figures_at_every_look() -> None:
    run = train(1, LOOK_EVERY, seed=1)
    assert [point["step"] for point in run["curve"]] == [0, LOOK_EVERY]
    start = run["curve"][0]
    assert start["second_half_loss"] == pytest.approx(np.log(VOCABULARY), abs=0.1)
    assert start["induction"] < 0.1


def test_the_stored_figures_bear_the_claims() -> None:
    """Two layers find induction on distances they never saw; one layer does not, nor do tokens that do not repeat."""
    runs = json.loads((FOLDER / "induction.json").read_text())["runs"]
    two = [run["curve"] for run in runs if run["n_layers"] == 2 and run["trained_on_repeats"]]
    assert len(two) == 3
    for curve in two:
        assert curve[-1]["induction"] > 0.5
        assert curve[-1]["second_half_loss"] < 0.1 * curve[0]["second_half_loss"]
        assert curve[-1]["induction_unrepeated"] < 0.1
        for point in curve:  # the loss falls with the score: neither is low or high without the other
            assert (point["induction"] > 0.5) == (point["second_half_loss"] < 0.6 * curve[0]["second_half_loss"])
    controls = [run["curve"] for run in runs if run["n_layers"] == 1 or not run["trained_on_repeats"]]
    assert len(controls) >= 2
    for curve in controls:
        assert curve[-1]["induction"] < 0.1
