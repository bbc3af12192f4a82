"""Flags are made from the config fields; what is not typed leaves no trace."""

import argparse

import pytest

from lab.cli.flags import add_config_flags, given
from lab.cli.parser import build_parser
from lab.config import PretrainConfig, build_pretrain, leaves

FLAGS = [leaf for leaf in leaves(PretrainConfig) if leaf.level != "derived"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_config_flags(made, PretrainConfig)
    return made


def typed(line: str) -> dict:
    return given(parser().parse_args(line.split()), PretrainConfig)


def test_a_flag_that_is_not_typed_leaves_no_trace():
    assert typed("") == {}


def test_every_knob_but_the_derived_ones_is_a_flag():
    options = {option for action in parser()._actions for option in action.option_strings}
    assert {leaf.flag for leaf in FLAGS} <= options
    assert "--vocab-size" not in options


def test_flags_stand_under_the_headings_of_the_form():
    headings = [group.title for group in parser()._action_groups][2:]
    assert headings == list(dict.fromkeys(leaf.group for leaf in FLAGS))


def test_what_is_no_number_stays_text_until_the_config_checks_it():
    assert typed("--max-steps 50 --learning-rate 3e-4") == {"max_steps": 50, "learning_rate": 3e-4}
    assert typed("--max-steps many --precision fp8") == {"max_steps": "many", "precision": "fp8"}


def test_a_switch_can_be_turned_on_and_off():
    assert typed("--tie-embeddings --no-tf32") == {"tie_embeddings": True, "tf32": False}


def test_none_empties_a_knob_that_may_be_empty():
    values = typed("--eval-tokens none")
    assert values == {"eval_tokens": None}
    assert build_pretrain(values).train.eval_tokens is None


def test_none_is_an_ordinary_word_for_a_knob_that_may_not_be_empty():
    assert typed("--corpus none") == {"corpus": "none"}


def test_several_texts_make_one_knob():
    args = parser().parse_args(["--sample-prompts", "To be", "ROMEO:"])
    assert build_pretrain(given(args, PretrainConfig)).train.sample_prompts == ("To be", "ROMEO:")


@pytest.mark.parametrize("leaf", FLAGS, ids=lambda leaf: leaf.name)
def test_the_default_of_every_knob_can_be_typed(leaf):
    """What a person reads in the form or the docs works as a flag, and means the same."""
    if leaf.type is bool:
        line = [leaf.flag if leaf.default else f"--no-{leaf.flag[2:]}"]
    elif leaf.many:
        line = [leaf.flag, *leaf.default]
    else:
        line = [leaf.flag, "none" if leaf.default is None else str(leaf.default)]
    values = given(parser().parse_args(line), PretrainConfig)
    assert list(values) == [leaf.name]
    assert build_pretrain(values if leaf.name.startswith("max_") and values[leaf.name] else {**values, "max_steps": 5})


def test_a_percent_sign_in_a_hint_survives_argparse():
    for command in ("train", "fork"):
        text = subparser(command).format_help()
        assert "%" not in text or "%%" not in text


def test_no_flag_hides_an_argument_of_the_command_itself():
    names = {leaf.name for leaf in FLAGS}
    own = {"json", "run", "preset", "like", "name", "run_text", "step", "prompt"}
    assert not names & own


def subparser(name: str) -> argparse.ArgumentParser:
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return commands.choices[name]
