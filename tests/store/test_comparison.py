"""What differs between runs, which run is missing, and how large luck is."""

import math
import statistics
from typing import Any

import pytest

from lab.config import PRESETS, changed, differences, to_json
from lab.errors import StoreError
from lab.store import Database, config_diff, contrast, seed_groups, seed_spread
from lab.store.seeds import Spread, t95, within_noise
from lab.store.settings import ORIGIN

BASE = PRESETS["pocket"]


def _run(database: Database, run_id: str, loss: float | None = None, **settings: Any) -> None:
    database.add_run({"run_id": run_id, "config": to_json(changed(BASE, **settings)), "kind": "pretrain"})
    if loss is not None:
        with database.writing() as cursor:
            cursor.append("metrics", ["run_id", "step", "name", "value"], [(run_id, 1, "val/loss", loss)])
    database.update_run(run_id, status="finished")


def test_the_diff_shows_what_differs_in_the_order_chosen(database: Database) -> None:
    _run(database, "a")
    _run(database, "b", learning_rate=0.01)
    _run(database, "c", learning_rate=0.01, threads=2)
    found = config_diff(database, ["c", "a", "b"])
    assert list(found.columns) == ["c", "a", "b"]
    assert list(found.index) == ["learning_rate", "threads"]
    assert list(found.loc["learning_rate"]) == [0.01, BASE.optim.learning_rate, 0.01]
    assert list(found.loc["threads"]) == [2, None, None]
    assert found.attrs["inert"] == ["threads"]
    everything = config_diff(database, ["a", "b"], only_differences=False)
    assert len(everything) == everything.attrs["same"] + 1 == len(found) + found.attrs["same"]


def test_an_older_config_without_a_field_differs_only_if_the_field_changed_something(database: Database) -> None:
    config = to_json(BASE)
    del config["compute"]["tf32"], config["model"]["attention_drop_rate"]
    database.add_run({"run_id": "old", "config": config})
    _run(database, "off", tf32=False)
    _run(database, "on", tf32=True)
    assert list(config_diff(database, ["old", "off"]).index) == []
    assert list(config_diff(database, ["old", "on"]).index) == ["tf32"]


@pytest.mark.parametrize("chosen", [["a"], ["a", "a"], [f"r{i}" for i in range(21)], ["a", "nobody"]])
def test_a_diff_is_of_2_to_20_known_runs(database: Database, chosen: list[str]) -> None:
    _run(database, "a")
    with pytest.raises(StoreError):
        config_diff(database, chosen)


def test_two_runs_that_differ_in_two_settings_have_four_controlled_runs_of_which_some_exist(database: Database) -> None:
    _run(database, "left", learning_rate=1e-3, batch_size=4)
    _run(database, "right", learning_rate=1e-2, batch_size=8, threads=1)
    _run(database, "between", learning_rate=1e-2, batch_size=4, keep_last=7)
    found = contrast(database, "left", "right")
    assert found.differences == {"learning_rate": (1e-3, 1e-2), "batch_size": (4, 8), "threads": (None, 1)}
    assert found.inert == ("threads",)
    assert not found.is_controlled
    there = {(one.setting, one.of): one.run_ids for one in found.neighbours}
    assert there == {
        ("learning_rate", "left"): ("between",),
        ("learning_rate", "right"): (),
        ("batch_size", "left"): (),
        ("batch_size", "right"): ("between",),
    }


def test_a_missing_controlled_run_comes_as_a_config_that_differs_in_that_setting_alone(database: Database) -> None:
    _run(database, "left", learning_rate=1e-3, batch_size=4)
    _run(database, "right", learning_rate=1e-2, batch_size=8)
    for one in contrast(database, "left", "right").missing:
        rate, batch = (1e-3, 4) if one.of == "left" else (1e-2, 8)
        base = changed(BASE, learning_rate=rate, batch_size=batch)
        assert one.config is not None
        assert list(differences(base, one.config)) == [one.setting]


def test_a_controlled_run_that_cannot_be_trained_says_why(database: Database) -> None:
    _run(database, "left", emb_dim=64, n_heads=4, learning_rate=1e-3)
    _run(database, "right", emb_dim=66, n_heads=3, learning_rate=1e-3)
    problems = {(one.setting, one.of): one.problem for one in contrast(database, "left", "right").missing}
    assert "64" in problems["n_heads", "left"]
    assert "heads" in problems["n_heads", "left"]
    assert contrast(database, "left", "right").missing[0].config is None


def fork(database: Database, run_id: str, parent: str, step: int, loss: float | None = None, **settings: Any) -> None:
    _run(database, run_id, loss, **settings)
    database.update_run(run_id, parent_run_id=parent, parent_step=step)


def keeps(database: Database, run_id: str, *steps: int) -> None:
    with database.writing() as cursor:
        cursor.append("checkpoints", ["run_id", "step", "kind"], [(run_id, step, "kept") for step in steps])


def test_a_fork_and_a_fresh_run_with_equal_settings_differ_in_where_they_began(database: Database) -> None:
    _run(database, "parent", learning_rate=1e-2)
    _run(database, "fresh")
    fork(database, "fork", "parent", 500)
    found = contrast(database, "fresh", "fork")
    assert found.differences == {ORIGIN: (None, "parent@500")}
    assert config_diff(database, ["fork", "fresh"]).loc[ORIGIN].tolist() == ["parent@500", None]
    fork(database, "later", "parent", 900)
    assert contrast(database, "fork", "later").differences == {ORIGIN: ("parent@500", "parent@900")}


def test_a_missing_controlled_run_of_a_fork_is_a_fork_from_the_same_state(database: Database) -> None:
    _run(database, "parent", batch_size=3)
    keeps(database, "parent", 500)
    _run(database, "fresh", learning_rate=1e-2)
    fork(database, "fork", "parent", 500)
    _run(database, "not it", learning_rate=5e-3)
    fork(database, "nor it", "parent", 400, learning_rate=1e-2)
    found = contrast(database, "fresh", "fork")
    assert set(found.differences) == {"learning_rate", ORIGIN}
    wanted = {(one.setting, one.of): (one.run_ids, one.parent, one.problem) for one in found.neighbours}
    assert wanted == {
        ("learning_rate", "fresh"): ((), None, ""),
        ("learning_rate", "fork"): ((), ("parent", 500), ""),
        (ORIGIN, "fresh"): ((), ("parent", 500), ""),
        (ORIGIN, "fork"): ((), None, ""),
    }
    for one in found.missing:
        assert one.config is not None
        assert one.config.optim.learning_rate == (
            1e-2
            if (one.setting, one.of) in (("learning_rate", "fork"), (ORIGIN, "fresh"))
            else BASE.optim.learning_rate
        )
    fork(database, "it", "parent", 500, learning_rate=1e-2)
    there = {(one.setting, one.of): one.run_ids for one in contrast(database, "fresh", "fork").neighbours}
    assert there["learning_rate", "fork"] == there[ORIGIN, "fresh"] == ("it",)


def test_a_controlled_fork_whose_parents_state_is_gone_says_so(database: Database) -> None:
    _run(database, "parent")
    fork(database, "one", "parent", 500, batch_size=3, learning_rate=1e-2)
    fork(database, "other", "parent", 500)
    for one in contrast(database, "one", "other").missing:
        assert one.config is None
        assert one.problem == "The state of step 500 of run parent is not kept any more."


def test_forks_are_of_one_seed_group_where_their_parents_are(database: Database) -> None:
    for seed in (1, 2, 3):
        _run(database, f"parent{seed}", seed=seed)
        fork(database, f"fork{seed}", f"parent{seed}", 100, seed=seed, learning_rate=1e-2)
        _run(database, f"fresh{seed}", seed=seed, learning_rate=1e-2)
    fork(database, "later", "parent1", 200, seed=1, learning_rate=1e-2)
    found = seed_groups(database, ["fork1", "fresh1", "later"])
    assert found == {
        "fork1": ("fork1", "fork2", "fork3"), "fresh1": ("fresh1", "fresh2", "fresh3"), "later": ("later",),
    }  # fmt: skip


def test_runs_that_differ_in_one_setting_are_their_own_controlled_pair(database: Database) -> None:
    _run(database, "left")
    _run(database, "right", learning_rate=0.01, threads=1)
    found = contrast(database, "left", "right")
    assert found.is_controlled
    assert found.neighbours == ()


def test_a_seed_group_is_every_run_that_differs_in_the_seed_or_in_what_changes_nothing(database: Database) -> None:
    _run(database, "a", seed=1)
    _run(database, "b", seed=2, threads=1)
    _run(database, "c", seed=3, learning_rate=0.5)
    assert seed_groups(database, ["a", "c"]) == {"a": ("a", "b"), "c": ("c",)}


def test_the_spread_of_seeds_says_what_is_noise(database: Database) -> None:
    for seed, loss in enumerate([1.90, 1.92, 1.88]):
        _run(database, f"base{seed}", loss, seed=seed)
        _run(database, f"close{seed}", loss + 0.01, seed=seed, batch_size=3)
        _run(database, f"worse{seed}", loss + 0.50, seed=seed, batch_size=5)
    _run(database, "alone", 1.93, batch_size=6)
    found = seed_spread(database, ["worse0", "alone", "close2", "base2", "base0"]).set_index("run_id")
    assert list(found.index) == ["base2", "close2", "base0", "alone", "worse0"]
    assert found.loc["base2", "verdict"] == "best"
    assert found.loc["base0", "verdict"] == "another seed of the best, n = 3"
    assert found.loc["close2", "verdict"] == "within seed noise, n = 3"
    assert found.loc["worse0", "verdict"] == "beyond seed noise, n = 3"
    assert found.loc["alone", "verdict"] == "within seed noise, n = 1 and 3"
    assert found.loc["base0", "mean"] == pytest.approx(1.9)
    assert found.loc["base0", "sd"] == pytest.approx(statistics.stdev([1.90, 1.92, 1.88]))


def test_with_one_seed_each_nothing_can_be_said(database: Database) -> None:
    _run(database, "a", 1.0)
    _run(database, "b", 2.0, batch_size=3)
    _run(database, "diverged", math.nan, batch_size=5)
    assert list(seed_spread(database, ["a", "b", "diverged"])["verdict"]) == ["best", "unknown: one seed each"]


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (10, 2.228), (30, 2.042), (60, 2.000), (120, 1.980)]
)
def test_t_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert t95(freedom) == pytest.approx(t, abs=2e-3)


def test_welch_agrees_with_a_worked_example() -> None:
    # Means 2 and 4, both with variance 1 and n = 3: t = 2 / sqrt(2/3) = 2.449 < t(4) = 2.776; at 2.3 apart, 2.817.
    one = Spread((1.0, 2.0, 3.0))
    assert within_noise(one, Spread((3.0, 4.0, 5.0))) is True
    assert within_noise(one, Spread((3.3, 4.3, 5.3))) is False
    assert within_noise(Spread((1.0,)), Spread((2.0,))) is None
