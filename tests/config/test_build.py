"""From layers of flat values to a checked config, or to all mistakes at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config import PRESETS, PretrainConfig, build_pretrain, changed, differences, flat, layered
from lab.errors import ConfigError


def mistakes(*layers: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_pretrain(*layers)
    return caught.value.mistakes


def test_no_layers_give_the_defaults():
    assert build_pretrain() == PretrainConfig()


def test_a_later_layer_wins():
    config = build_pretrain({"batch_size": 8, "seed": 1}, {"batch_size": 16})
    assert (config.train.batch_size, config.train.seed) == (16, 1)


def test_a_flag_beats_the_preset_and_the_rest_of_the_preset_stays():
    config = build_pretrain(flat(PRESETS["pocket"]), {"n_layers": 2})
    assert differences(PRESETS["pocket"], config) == {"n_layers": (4, 2)}


def test_text_from_the_command_line_becomes_numbers():
    config = build_pretrain({"max_steps": "50", "learning_rate": "3e-4", "drop_rate": "0", "eval_tokens": None})
    assert (config.train.max_steps, config.optim.learning_rate, config.model.drop_rate) == (50, 3e-4, 0.0)
    assert config.train.eval_tokens is None


def test_field_mistakes_and_broken_rules_are_reported_together():
    found = mistakes({"batch_size": 0, "drop_rate": 1.0, "emb_dim": 130, "n_heads": 4, "stride": 999})
    assert len(found) == 4
    assert "batch_size is 0, but must be a whole number of at least 1 and at most 65,536." in found
    assert "drop_rate is 1.0, but must be a number of at least 0 and less than 1." in found
    assert any("emb_dim 130 cannot be split between n_heads 4" in sentence for sentence in found)
    assert any("stride 999 is longer than context_length 256" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_steps": "many"}, "max_steps is 'many', but must be a whole number of at least 1, or not set."),
        ({"learning_rate": float("nan")}, "learning_rate is nan, but must be a number of more than 0 and at most 10."),
        ({"precision": "fp8"}, "precision is 'fp8', but must be one of auto, fp32, bf16, fp16."),
        ({"batch_sise": 4}, "There is no setting 'batch_sise': did you mean batch_size?"),
        ({"max_steps": None}, "No budget is set: give one of max_steps, max_epochs or max_minutes."),
        ({"qkv_bias": "perhaps"}, "qkv_bias is 'perhaps', but must be true or false."),
    ],
)
def test_a_mistake_names_the_field_the_value_and_the_rule(values, sentence):
    assert mistakes(values) == [sentence]


def test_a_rule_about_a_mistaken_field_stays_silent():
    """Else the sentence would blame a value that nobody gave."""
    assert len(mistakes({"max_minutes": "soon"})) == 1
    assert len(mistakes({"emb_dim": "wide", "n_heads": 7})) == 1


def test_two_budgets_in_one_layer_are_refused():
    assert mistakes({"max_steps": 10, "max_minutes": 1}) == [
        "One budget is enough, but 2 are set (max_steps 10, max_minutes 1.0): keep one of them."
    ]


@pytest.mark.parametrize("upper", ["max_steps", "max_epochs", "max_minutes"])
@pytest.mark.parametrize("lower", ["max_steps", "max_epochs", "max_minutes"])
def test_a_layers_budget_replaces_the_one_below(lower, upper):
    config = build_pretrain({lower: 3}, {upper: 5})
    budget = {name: value for name, value in flat(config).items() if name.startswith("max_") and value is not None}
    assert budget == {upper: 5}


def test_a_layer_without_a_budget_leaves_the_one_below():
    assert layered({"max_minutes": 2, "max_steps": None}, {"seed": 5})["max_minutes"] == 2


def test_an_empty_budget_does_not_clear_the_one_below():
    assert layered({"max_minutes": 2}, {"max_minutes": None, "max_steps": 7})["max_steps"] == 7


def test_changed_checks_again():
    assert changed(PretrainConfig(), n_heads=8).model.n_heads == 8
    with pytest.raises(ConfigError, match="cannot be split"):
        changed(PretrainConfig(), n_heads=7)


def test_a_config_is_a_value():
    config = PretrainConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.model.n_layers = 7  # type: ignore[misc]
    assert hash(config) == hash(PretrainConfig())


@given(
    heads=st.integers(1, 32),
    width=st.integers(4, 2048),
    context=st.integers(2, 4096),
    stride=st.none() | st.integers(1, 5000),
)
def test_a_shape_is_accepted_exactly_when_its_rules_hold(heads, width, context, stride):
    values = {"n_heads": heads, "emb_dim": width, "context_length": context, "stride": stride}
    if width % heads == 0 and (stride is None or stride <= context):
        assert flat(build_pretrain(values)) | values == flat(build_pretrain(values))
    else:
        expected = (width % heads != 0) + (stride is not None and stride > context)
        assert len(mistakes(values)) == expected
