"""Probes: a planted signal is found, nothing is found where nothing is, and the intervals cover the truth."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.analysis.probes import (
    Kind,
    bootstrap_interval,
    control_labels,
    probe_rows,
    split_examples,
    wilson_interval,
)
from lab.errors import DataError

KINDS: list[Kind] = ["logistic", "ridge"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(n: int = 600, d: int = 16, n_classes: int = 3) -> tuple[Tensor, Tensor]:
    """Two rows: noise, and noise with the class written along one direction each. [2, n, d], int64 [n]."""
    labels = torch.randint(0, n_classes, (n,), generator=generator(1))
    noise = torch.randn(2, n, d, generator=generator(2))
    directions = torch.linalg.qr(torch.randn(d, d, generator=generator(3)))[0][:n_classes]
    noise[1] += 8 * directions[labels]
    return noise, labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_signal_is_found_and_noise_and_shuffled_labels_stay_at_chance(kind: Kind) -> None:
    features, labels = planted()
    report = probe_rows(features, labels, kind=kind)
    noise, signal = report.rows
    assert signal.value > 0.99
    assert noise.low < 1 / 3 + 0.05
    for shuffled in report.shuffled:
        assert shuffled.value < report.majority + 0.1
        assert shuffled.low < 1 / 3 + 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_tells_tokens_apart_has_no_selectivity_and_what_tells_classes_apart_has(kind: Kind) -> None:
    """Features that are a one-hot of the token solve any labelling of tokens, the random one too."""
    tokens = torch.randint(0, 12, (900,), generator=generator(4))
    labels = tokens % 2
    by_token = torch.nn.functional.one_hot(tokens, 12).float()
    by_class = torch.nn.functional.one_hot(labels, 2).float() + 0.01 * torch.randn(900, 2, generator=generator(5))
    memory = probe_rows(by_token[None], labels, tokens=tokens, kind=kind)
    meaning = probe_rows(by_class[None], labels, tokens=tokens, kind=kind)
    assert memory.rows[0].value == memory.control[0].value == 1
    assert memory.selectivity == [0]
    assert meaning.rows[0].value == 1
    assert meaning.selectivity[0] > 0.1


def test_the_control_task_gives_every_token_one_class_with_the_same_frequencies() -> None:
    tokens = torch.randint(0, 2_000, (8_000,), generator=generator(6))
    labels = (torch.rand(8_000, generator=generator(7)) < 0.25).long()
    control = control_labels(tokens, labels, np.random.Generator(np.random.PCG64(0)))
    for token in range(50):
        assert len(control[tokens == token].unique()) <= 1
    assert control.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_examples_at_one_and_the_same_token_have_no_control_task() -> None:
    features, labels = planted()
    report = probe_rows(features, labels, tokens=torch.full((600,), 13))
    assert report.control == []
    assert report.selectivity == []


def test_baselines_are_judged_on_the_same_examples() -> None:
    features, labels = planted()
    report = probe_rows(features, labels, baselines={"embedding": features[0], "untrained": features})
    assert report.baselines["embedding"] == [report.rows[0]]
    assert report.baselines["untrained"] == report.rows


def test_the_same_data_give_the_same_report_and_draw_nothing_from_the_shared_generator() -> None:
    features, labels = planted()
    state = torch.get_rng_state()
    reports = [probe_rows(features, labels, tokens=torch.arange(600) % 20) for _ in range(2)]
    assert reports[0] == reports[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_constant_dimension_does_no_harm() -> None:
    features, labels = planted()
    features[1, :, 0] = 7.0
    assert probe_rows(features, labels).rows[1].value > 0.95


def test_the_majority_is_the_share_of_the_most_frequent_held_out_class() -> None:
    labels = (torch.arange(1_000) % 10 == 0).long()
    report = probe_rows(torch.randn(1, 1_000, 4, generator=generator()), labels)
    assert report.majority == pytest.approx(0.9, abs=0.03)


def test_a_group_is_on_one_side_of_the_split_and_about_a_third_is_held_out() -> None:
    groups = torch.arange(1_000) // 10
    train, test = split_examples(torch.arange(1_000) % 2, groups)
    assert not set(groups[train].tolist()) & set(groups[test].tolist())
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1_000))
    assert len(test) / 1_000 == pytest.approx(0.3, abs=0.02)


def test_a_signal_that_only_names_the_group_is_worthless_on_new_groups() -> None:
    """Each group has its own random vector and its own random class: memorised without groups, unknowable with."""
    groups = torch.arange(1_000) // 10
    labels = torch.randint(0, 2, (100,), generator=generator(8))[groups]
    features = torch.randn(100, 64, generator=generator(9))[groups][None]
    assert probe_rows(features, labels).rows[0].value > 0.8
    assert probe_rows(features, labels, groups=groups).rows[0].low < 0.55


@pytest.mark.parametrize(
    ("labels", "groups", "sentence"),
    [
        (torch.arange(10) % 2, None, "at least 20 examples, and there are 10"),
        (torch.zeros(50, dtype=torch.int64), None, "the same label"),
        (torch.arange(50) // 25, torch.arange(50) // 25, "too few texts"),
    ],
)
def test_examples_that_cannot_be_judged_are_refused(labels: Tensor, groups: Tensor | None, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        split_examples(labels, groups)


# -- intervals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_has_the_published_values(right: int, n: int, low: float, high: float) -> None:
    """The last row: Newcombe 1998, Table I, method 3 (0.2553 to 0.3662)."""
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_covers_the_truth_about_95_times_in_100() -> None:
    drawn = np.random.Generator(np.random.PCG64(0)).binomial(60, 0.8, size=2_000)
    covered = [low <= 0.8 <= high for low, high in (wilson_interval(int(k), 60) for k in drawn)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_bootstrap_over_independent_examples_agrees_with_wilson() -> None:
    right = np.arange(400) % 4 != 0
    assert bootstrap_interval(right, np.arange(400)) == pytest.approx(wilson_interval(300, 400), abs=0.015)


def test_groups_that_are_right_or_wrong_together_widen_the_interval() -> None:
    right = np.repeat(np.arange(20) % 4 != 0, 20)
    low, high = bootstrap_interval(right, np.repeat(np.arange(20), 20))
    narrow = wilson_interval(300, 400)
    assert high - low > 3 * (narrow[1] - narrow[0])
