"""Every knob: all of its values train, together with all the others, and it changes what it says it changes.

The values are made from the config's own definition, so a new knob is tried without anybody thinking of it; and it
fails `test_every_knob_is_proven` until somebody says here how to see that it does something.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import Leaf, PretrainConfig, build_pretrain, leaves
from lab.config.build import check_rules
from lab.config.pretrain import PRETRAIN_RULES
from lab.errors import ConfigError
from lab.models.checkpoints import checkpoints_in
from lab.models.gpt import TransformerBlock
from lab.training import machine
from lab.training import trainer as trainer_module
from tests.training.helpers import SMALL, Trained, train
from tests.training.pairwise import all_pairs

KNOBS = {leaf.name: leaf for leaf in leaves(PretrainConfig) if leaf.level != "derived"}
BUDGETS = {"max_steps": 3, "max_epochs": 0.02, "max_minutes": 0.0003}

OWN_TEXT = "The cat sat on the mat, and the dog sat on the log. " * 30
TEXTS = {"corpus": ("tiny", "OWN", "alice", "shakespeare"), "sample_prompts": ((), ("The ",), ("a", "the dog"))}
"""Knobs whose values are words: nothing in a definition tells which ones to try."""

NUMBERS = (0.0, 0.05, 0.1, 0.5, 1.0, 2.0, 10.0)


def values_of(leaf: Leaf) -> list[Any]:
    """What a knob can be set to: every choice, both booleans, unset, its bounds where they are near, some between.
    The first one is the value of the small run."""
    base = SMALL.get(leaf.name, leaf.default)
    if leaf.name in TEXTS:
        found: list[Any] = list(TEXTS[leaf.name])
    elif leaf.choices:
        found = list(leaf.choices)
    elif leaf.type is bool:
        found = [False, True]
    elif leaf.name in BUDGETS:
        found = [BUDGETS[leaf.name]]
    elif leaf.type is int:
        low = int(leaf.minimum or 0)
        fitting = [value for value in range(low, low + 9) if _fits(leaf.name, value)]
        found = [*fitting[:3], *([int(leaf.maximum)] if leaf.name == "seed" and leaf.maximum else [])]
    else:
        found = [number for number in NUMBERS if _within(leaf, number)]
    if leaf.optional and leaf.name not in BUDGETS:
        found.append(None)
    return [base, *[value for value in found if value != base or type(value) is not type(base)]]


def _fits(name: str, value: Any) -> bool:
    """Whether the small run can have it: three heads do not divide a width of 16."""
    try:
        build_pretrain(SMALL, {name: value})
    except ConfigError:
        return False
    return True


def _within(leaf: Leaf, value: float) -> bool:
    low, high = leaf.minimum, leaf.maximum
    above = low is None or (value > low if leaf.exclusive_minimum else value >= low)
    return above and (high is None or (value < high if leaf.exclusive_maximum else value <= high))


def with_(name: str, value: Any, **others: Any) -> dict[str, Any]:
    """The small run's settings with one changed. A run has one budget: another one takes the place of the steps."""
    settings = {**SMALL, **others, name: value}
    if name in BUDGETS and name != "max_steps":
        settings["max_steps"] = None
    return settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One LAB_HOME for all of them, so that a text is tokenized once."""
    folder = tmp_path_factory.mktemp("knobs")
    (folder / "own.txt").write_text(OWN_TEXT)
    return folder


@pytest.fixture(autouse=True)
def _home(home: Path, _quick_measurements: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", str(home))


def trained_with(settings: dict[str, Any], home: Path) -> Trained:
    corpus = str(home / "own.txt") if settings["corpus"] == "OWN" else settings["corpus"]
    return train(build_pretrain({**settings, "corpus": corpus}))


def assert_it_trained(trained: Trained) -> None:
    assert trained.outcome.error is None
    assert trained.outcome.status == "finished"
    assert trained.losses
    assert all(math.isfinite(loss) for loss in trained.losses.values())
    assert trained.final.step == max(trained.losses) == max(trained.rows.metric("val/loss"))


DEVICES_HERE = {"auto", "cpu", *(["cuda"] if torch.cuda.is_available() else [])} | (
    {"mps"} if torch.backends.mps.is_available() else set()
)
EVERY_VALUE = [(name, value) for name, leaf in KNOBS.items() for value in values_of(leaf)[1:]]


@pytest.mark.parametrize(("name", "value"), EVERY_VALUE, ids=lambda given: repr(given)[:30])
def test_every_value_of_every_knob_trains_three_steps(name: str, value: Any, home: Path) -> None:
    if name == "device" and value not in DEVICES_HERE:
        trained = trained_with(with_(name, value), home)
        assert trained.outcome.status == "failed"
        assert f"device is '{value}', but this machine has only" in (trained.outcome.error or "")
        return
    assert_it_trained(trained_with(with_(name, value), home))


# -- pairs ----------------------------------------------------------------------------------------------------------


def paired_values() -> dict[str, list[Any]]:
    """Two or three values of each knob; the budgets are one choice with three values."""
    found = {name: values_of(leaf)[:3] for name, leaf in KNOBS.items() if name not in BUDGETS}
    for name, leaf in KNOBS.items():
        if leaf.choices:
            found[name] = [value for value in values_of(leaf) if name != "device" or value in DEVICES_HERE]
        if leaf.optional and name not in BUDGETS and None not in found[name]:
            found[name].append(None)
    found["corpus"] = ["tiny", "OWN"]  # the long texts cost time and add no other path
    found["threads"] = [1, 2, None]
    found["learning_rate"] = [1e-4, 1e-3]  # larger ones, tried above, may well blow up where nothing is clipped
    found["max_steps"] = list(BUDGETS.items())
    return found


def settings_of(combined: dict[str, Any]) -> dict[str, Any]:
    (budget, amount) = combined["max_steps"]
    return {**combined, "max_steps": None, budget: amount}


def can_work(combined: dict[str, Any]) -> bool:
    """By the rules between knobs alone: each value is valid for itself."""
    val_tokens = (300 if combined["tokenizer"] == "gpt2" else 1_500) * combined["val_fraction"]
    long_enough = val_tokens > combined["context_length"] + 1
    values = {**dict.fromkeys(BUDGETS), **settings_of(combined)}
    return long_enough and not check_rules(values, PRETRAIN_RULES)


def test_pairs_of_values_of_all_knobs_train_together(home: Path) -> None:
    configs = all_pairs(paired_values(), can_work)
    assert 9 <= len(configs) < 60
    failures = []
    for combined in configs:
        trained = trained_with(settings_of(combined), home)
        try:
            assert_it_trained(trained)
        except AssertionError as error:
            failures.append((combined, trained.outcome.error, str(error)))
    assert not failures, f"{len(failures)} of {len(configs)} configs: {failures[0]}"


# -- each knob does something ---------------------------------------------------------------------------------------

Proof = Callable[[Path, pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class ChangesLosses:
    """The training losses are others."""

    name: str
    value: Any
    others: tuple[tuple[str, Any], ...] = ()

    def __call__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        others = dict(self.others)
        base = trained_with({**SMALL, **others}, home)
        changed = trained_with(with_(self.name, self.value, **others), home)
        assert base.losses != changed.losses


def losses(name: str, value: Any, **others: Any) -> ChangesLosses:
    return ChangesLosses(name, value, tuple(others.items()))


def rate_follows(**knobs: Any) -> Proof:
    """The recorded learning rates are others, and so are the losses."""

    def proof(home: Path, _: pytest.MonkeyPatch) -> None:
        base = trained_with({**SMALL, "max_steps": 6, "warmup_steps": 0}, home)
        changed = trained_with({**SMALL, "max_steps": 6, "warmup_steps": 0, **knobs}, home)
        assert base.rows.metric("train/learning_rate") != changed.rows.metric("train/learning_rate")
        assert base.losses != changed.losses

    return proof


def accumulation(home: Path, _: pytest.MonkeyPatch) -> None:
    trained = trained_with(with_("grad_accum_steps", 3), home)
    assert trained.rows.tables["metrics"][-1]["tokens_seen"] == 3 * 3 * 4 * 16


def budget(name: str, value: Any, at_least: int, at_most: int) -> Proof:
    def proof(home: Path, _: pytest.MonkeyPatch) -> None:
        assert at_least <= len(trained_with(with_(name, value), home).losses) <= at_most

    return proof


def eval_every(home: Path, _: pytest.MonkeyPatch) -> None:
    assert set(trained_with(with_("eval_every", 2), home).rows.metric("val/loss")) == {0, 2, 3}


def eval_tokens(home: Path, _: pytest.MonkeyPatch) -> None:
    few, all_of_it = (trained_with(with_("eval_tokens", n), home) for n in (16, None))
    assert few.losses == all_of_it.losses
    assert few.rows.metric("val/loss") != all_of_it.rows.metric("val/loss")


def sample_prompts(home: Path, _: pytest.MonkeyPatch) -> None:
    trained = trained_with(with_("sample_prompts", ("a", "the dog"), sample_tokens=2), home)
    assert [(row["step"], row["prompt"]) for row in trained.rows.tables["samples"]] == [
        (0, "a"), (0, "the dog"), (3, "a"), (3, "the dog"),
    ]  # fmt: skip


def sample_tokens(home: Path, _: pytest.MonkeyPatch) -> None:
    assert not trained_with(SMALL, home).rows.tables["samples"]
    trained = trained_with(with_("sample_tokens", 5), home)
    assert [len(row["text"]) for row in trained.rows.tables["samples"]] == [5, 5]


def checkpoint_every(home: Path, _: pytest.MonkeyPatch) -> None:
    kept = {
        every: [
            info.step for info in checkpoints_in(trained_with(with_("checkpoint_every", every), home).run.checkpoints)
        ]
        for every in (0, 1)
    }
    assert kept == {0: [3], 1: [1, 2, 3]}


def keep_last(home: Path, _: pytest.MonkeyPatch) -> None:
    trained = trained_with(with_("keep_last", 1, checkpoint_every=1, max_steps=5), home)
    assert [info.step for info in checkpoints_in(trained.run.checkpoints)] == [4, 5]


def device(home: Path, _: pytest.MonkeyPatch) -> None:
    """On a machine without that device the run fails with a sentence; with it, the config says where it ran."""
    for name in ("cpu", "cuda", "mps"):
        trained = trained_with(with_("device", name), home)
        if name in DEVICES_HERE:
            assert trained.run.config().compute.device == name
        else:
            assert f"device is '{name}', but" in (trained.outcome.error or "")


def precision(home: Path, _: pytest.MonkeyPatch) -> None:
    found = {
        name: tuple(trained_with(with_("precision", name), home).losses.values()) for name in ("fp32", "bf16", "fp16")
    }
    assert len(set(found.values())) == 3
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02)
    assert found["fp16"] == pytest.approx(found["fp32"], rel=0.005)


def attention_impl(home: Path, _: pytest.MonkeyPatch) -> None:
    found = {name: trained_with(with_("attention_impl", name), home) for name in ("sdpa", "manual")}
    kernels = {name: trained.run.info()["resolved"]["kernel"] for name, trained in found.items()}
    assert kernels["manual"] == "manual" != kernels["sdpa"]
    assert list(found["manual"].losses.values()) == pytest.approx(list(found["sdpa"].losses.values()), rel=1e-5)


def attention_drop_rate(home: Path, _: pytest.MonkeyPatch) -> None:
    trained = trained_with(with_("attention_drop_rate", 0.5), home)
    assert trained.losses != trained_with(SMALL, home).losses
    assert trained.run.info()["resolved"]["kernel"] == "manual"


def gradient_checkpointing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses to the bit, and the inside of each block computed a second time."""
    forward, calls = TransformerBlock.forward, []
    monkeypatch.setattr(TransformerBlock, "forward", lambda self, *a: calls.append(self.training) or forward(self, *a))
    off = trained_with(SMALL, home)
    in_training, calls[:] = sum(calls), []
    on = trained_with(with_("gradient_checkpointing", True), home)
    assert (in_training, sum(calls)) == (3 * 2, 2 * 3 * 2)
    assert on.losses == off.losses


def tf32(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only CUDA has it: there the run hands it to torch; elsewhere it asks for nothing."""
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    for on in (True, False):
        machine.set_tf32(torch.device("cuda"), on)
        machine.set_tf32(torch.device("cpu"), on)
    assert asked == ["high", "highest"]
    handed: list[bool] = []
    monkeypatch.setattr(machine, "set_tf32", lambda device, on: handed.append(on))
    for on in (True, False):
        trained_with(with_("tf32", on), home)
    assert handed == [True, False]


def threads(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = trainer_module.Trainer._step, []
    monkeypatch.setattr(
        trainer_module.Trainer, "_step", lambda self: seen.append(torch.get_num_threads()) or step(self)
    )
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            trained_with(with_("threads", n), home)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1, 2, 2, 2]


def optimizer(home: Path, _: pytest.MonkeyPatch) -> None:
    wide = {"emb_dim": 64, "n_layers": 1}
    eight_bit = trained_with(with_("optimizer", "adamw_8bit", **wide), home)
    assert eight_bit.losses != trained_with({**SMALL, **wide}, home).losses
    assert eight_bit.tensors()["optimizer.trf_blocks.0.ff.layers.0.weight/state1"].dtype == torch.uint8


def tie_embeddings(home: Path, _: pytest.MonkeyPatch) -> None:
    tied, untied = (trained_with(with_("tie_embeddings", value), home).tensors() for value in (True, False))
    assert "model.out_head.weight" in untied
    assert "model.out_head.weight" not in tied


def qkv_bias(home: Path, _: pytest.MonkeyPatch) -> None:
    """The biases start at 0, so the first loss is the same; then they learn."""
    with_bias, without = (trained_with(with_("qkv_bias", value), home) for value in (True, False))
    assert with_bias.losses[1] == without.losses[1]
    assert with_bias.losses != without.losses
    assert with_bias.tensors()["model.trf_blocks.0.att.W_query.bias"].any()


PROOFS: dict[str, Proof] = {
    "context_length": losses("context_length", 8),
    "emb_dim": losses("emb_dim", 24),
    "n_layers": losses("n_layers", 1),
    "n_heads": losses("n_heads", 4),
    "drop_rate": losses("drop_rate", 0.5),
    "attention_drop_rate": attention_drop_rate,
    "qkv_bias": qkv_bias,
    "tie_embeddings": tie_embeddings,
    "corpus": losses("corpus", "OWN"),
    "tokenizer": losses("tokenizer", "gpt2"),
    "stride": losses("stride", 3),
    "val_fraction": losses("val_fraction", 0.5),
    "learning_rate": losses("learning_rate", 0.02),
    "schedule": rate_follows(schedule="constant"),
    "warmup_steps": rate_follows(warmup_steps=3),
    "schedule_steps": rate_follows(schedule_steps=100),
    "min_lr_ratio": rate_follows(min_lr_ratio=0.9),
    "optimizer": optimizer,
    "weight_decay": losses("weight_decay", 5.0),
    "beta1": losses("beta1", 0.5),
    "beta2": losses("beta2", 0.5),
    "grad_clip": losses("grad_clip", 1e-7),
    "batch_size": losses("batch_size", 2),
    "grad_accum_steps": accumulation,
    "max_steps": budget("max_steps", 5, 5, 5),
    "max_epochs": budget("max_epochs", 0.1, 9, 10),
    "max_minutes": budget("max_minutes", 1e-7, 1, 1),
    "seed": losses("seed", 1),
    "eval_every": eval_every,
    "eval_tokens": eval_tokens,
    "sample_prompts": sample_prompts,
    "sample_tokens": sample_tokens,
    "checkpoint_every": checkpoint_every,
    "keep_last": keep_last,
    "device": device,
    "precision": precision,
    "attention_impl": attention_impl,
    "gradient_checkpointing": gradient_checkpointing,
    "tf32": tf32,
    "threads": threads,
}


def test_every_knob_is_proven() -> None:
    assert PROOFS.keys() == KNOBS.keys()


@pytest.mark.parametrize("name", PROOFS)
def test_knob_changes_what_it_says(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PROOFS[name](home, monkeypatch)
