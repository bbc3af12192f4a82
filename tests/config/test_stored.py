"""A config as stored JSON: what was written is read back; what is older keeps its old behaviour."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config import (
    PRESETS,
    FineTuneConfig,
    PretrainConfig,
    build_pretrain,
    differences,
    flat,
    from_json,
    leaves,
    to_json,
)
from lab.config.stored import ABSENT_MEANS, CONFIG_VERSION, UPGRADES
from lab.errors import ConfigError

OLD = Path(__file__).parent / "config-2026-11-20.json"
OLD_FINETUNE = Path(__file__).parent / "finetune-2026-11-20.json"


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_stored_is_read_back(name):
    assert from_json(json.loads(json.dumps(to_json(PRESETS[name])))) == PRESETS[name]


@given(
    learning_rate=st.floats(1e-8, 10, allow_nan=False),
    prompts=st.lists(st.text()),
    minutes=st.floats(1e-3, 1e6),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_value_survives_storing_to_the_last_bit(learning_rate, prompts, minutes, seed):
    config = build_pretrain(
        {"learning_rate": learning_rate, "sample_prompts": prompts, "max_minutes": minutes, "seed": seed}
    )
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_stored_config_says_its_kind_and_version():
    stored = to_json(PretrainConfig())
    assert (stored["kind"], stored["config_version"]) == ("pretrain", CONFIG_VERSION)


def test_an_old_config_without_newer_fields_keeps_the_old_behaviour():
    """The file was written before attention dropout, TF32, the schedule and threads were knobs."""
    old = json.loads(OLD.read_text())
    absent = absent_from(old, PretrainConfig)
    known = {leaf.name for leaf in leaves(PretrainConfig)}
    assert absent == known & set(ABSENT_MEANS), "the file lacks exactly the fields that came later"
    values = flat(from_json(old))
    assert {name: values[name] for name in absent} == {
        "attention_drop_rate": 0.0,
        "tf32": False,  # today's default is True
        "schedule": "cosine",
        "threads": None,
    }
    assert (values["emb_dim"], values["learning_rate"], values["corpus"]) == (96, 0.002, "alice")


def test_an_old_fine_tuning_reads_as_much_of_the_story_as_it_did():
    """The file was written before it was a knob how much is read to see what was forgotten."""
    old = json.loads(OLD_FINETUNE.read_text())
    assert absent_from(old, FineTuneConfig) == {"forget_tokens"}
    assert flat(from_json(old))["forget_tokens"] == 1_024
    assert flat(FineTuneConfig())["forget_tokens"] != 1_024


def absent_from(stored, kind):
    return {leaf.name for leaf in leaves(kind) if leaf.name not in stored[leaf.section]}


def test_unknown_keys_are_refused_all_at_once():
    stored = to_json(PretrainConfig())
    stored["model"]["rope"] = True
    stored["colour"] = "blue"
    with pytest.raises(ConfigError, match=r"does not know: colour, model\.rope"):
        from_json(stored)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "poem"}, "kind 'poem'"),
        ({"config_version": CONFIG_VERSION + 1}, "newer than this lab's"),
        ({"config_version": None}, "must be a whole number from 1"),
    ],
)
def test_a_stranger_or_newer_config_is_refused_with_a_sentence(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        from_json({**to_json(PretrainConfig()), **change})


def test_a_stored_value_that_cannot_work_is_refused():
    stored = to_json(PretrainConfig())
    stored["model"]["n_heads"] = 3
    with pytest.raises(ConfigError, match="cannot be split"):
        from_json(stored)


def test_there_is_an_upgrade_from_every_older_version():
    assert set(UPGRADES) == set(range(1, CONFIG_VERSION))


def test_differences_name_both_values():
    assert differences(PRESETS["nano"], PRESETS["small"]) == {
        "context_length": (256, 512),
        "emb_dim": (256, 512),
        "n_layers": (6, 8),
        "n_heads": (4, 8),
    }
