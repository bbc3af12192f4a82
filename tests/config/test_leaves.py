"""Every knob describes itself once; form, flags, stored JSON and docs are made from that."""

import pytest

from lab.config import KINDS, PRESET_HINTS, PRESETS, Leaf, PretrainConfig, build, build_pretrain, flat, leaves
from lab.config.knobs import sections
from lab.config.presets import default_preset

LEAVES = leaves(PretrainConfig)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_leaf = pytest.mark.parametrize(
    ("kind", "leaf"),
    [(kind, leaf) for kind, config in KINDS.items() for leaf in leaves(config)],
    ids=lambda value: value.name if isinstance(value, Leaf) else value,
)


@each_kind
def test_leaf_names_are_unique_over_all_sections(kind: str):
    names = [leaf.name for leaf in leaves(KINDS[kind])]
    assert len(names) == len(set(names))


@each_kind
def test_every_field_of_every_section_is_a_leaf(kind: str):
    config = KINDS[kind]
    names = {leaf.name for leaf in leaves(config)}
    assert names == {name for section in sections(config).values() for name in section.model_fields}
    assert names == set(flat(config()))


@each_kind
def test_the_defaults_of_a_kind_are_a_config_that_can_run(kind: str):
    assert build(KINDS[kind]) == KINDS[kind]()


@each_leaf
def test_every_leaf_says_what_it_is(kind: str, leaf: Leaf):
    assert leaf.title
    assert leaf.title[0].isupper()
    assert leaf.help.endswith("."), leaf.help
    assert leaf.level in ("basic", "advanced", "derived")
    assert leaf.group
    assert not leaf.effect or leaf.effect.endswith("."), leaf.effect
    assert leaf.optional == bool(leaf.none_label), "an optional knob says what 'not set' means, and only that one"


@each_leaf
def test_every_number_has_bounds(kind: str, leaf: Leaf):
    if leaf.type in (int, float):
        assert leaf.minimum is not None, "a form needs to know where to stop"


@each_leaf
def test_every_default_is_inside_its_own_bounds(kind: str, leaf: Leaf):
    assert flat(build(KINDS[kind], {leaf.name: leaf.default}))[leaf.name] == leaf.default


def test_the_flags_of_the_contract_exist():
    promised = (
        "--max-steps --max-epochs --max-minutes --schedule-steps --batch-size --grad-accum-steps --learning-rate "
        "--warmup-steps --grad-clip --drop-rate --eval-every --checkpoint-every --keep-last --seed --device "
        "--precision --attention-impl --gradient-checkpointing --tie-embeddings --context-length --emb-dim "
        "--n-layers --n-heads --corpus"
    )
    assert set(promised.split()) <= {leaf.flag for leaf in LEAVES}


def test_only_the_vocabulary_is_derived():
    assert [leaf.name for leaf in LEAVES if leaf.level == "derived"] == ["vocab_size"]


def test_presets_are_valid_and_explained():
    assert list(PRESETS) == ["pocket", "nano", "small", "medium"] == list(PRESET_HINTS)
    for preset in PRESETS.values():
        assert build_pretrain(flat(preset)) == preset


def test_a_cpu_starts_with_pocket_and_a_gpu_with_nano():
    assert (default_preset(has_gpu=False), default_preset(has_gpu=True)) == ("pocket", "nano")


@pytest.mark.parametrize(
    ("preset", "emb_dim", "n_layers", "n_heads", "context_length"),
    [("pocket", 128, 4, 4, 64), ("nano", 256, 6, 4, 256), ("small", 512, 8, 8, 512), ("medium", 768, 12, 12, 1024)],
)
def test_a_preset_has_its_promised_shape(preset, emb_dim, n_layers, n_heads, context_length):
    model = PRESETS[preset].model
    assert (model.emb_dim, model.n_layers, model.n_heads, model.context_length) == (
        emb_dim,
        n_layers,
        n_heads,
        context_length,
    )


def test_medium_is_gpt2_small():
    model = PRESETS["medium"].model
    assert (model.vocab_size, model.qkv_bias, model.tie_embeddings) == (50_257, True, True)
