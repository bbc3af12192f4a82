"""What a run records of its heads while it trains, and that looking changes nothing."""

import time

import pytest
import torch

from lab.analysis.heads import head_stats
from lab.models.gpt import build_gpt
from lab.training import pretraining_job
from lab.training.head_watch import TEXT, HeadWatch, repeated_tokens
from tests.training.helpers import assert_same_tensors, small, train


def test_each_evaluation_records_every_head_and_layer() -> None:
    trained = train(small(max_steps=4, eval_every=2))
    heads, layers = trained.rows.tables["head_stats"], trained.rows.tables["layer_stats"]
    assert {row["step"] for row in heads} == {row["step"] for row in layers} == {0, 2, 4}
    assert {(row["layer"], row["head"]) for row in heads} == {(layer, head) for layer in (0, 1) for head in (0, 1)}
    assert {"induction", "previous_token", "sink", "entropy"} <= {row["name"] for row in heads}
    assert {row["point"] for row in layers} == {"pre_attn", "post_attn", "post_ffn", "delta_attn", "delta_ffn"}
    assert {row["text"] for row in heads + layers} == {TEXT}


def test_looking_at_the_heads_does_not_change_a_bit_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(max_steps=6, eval_every=2, drop_rate=0.1)
    watched = train(config)
    monkeypatch.setattr(pretraining_job, "repeated_tokens", lambda *_: None)
    alone = train(config)
    assert "head_stats" not in alone.rows.tables
    assert watched.rows.learned() == alone.rows.learned()
    assert_same_tensors(watched.tensors(), alone.tensors())


def test_repeated_tokens_are_different_ones_said_twice() -> None:
    ids = repeated_tokens(65, 64, torch.device("cpu"))
    first, second = ids[:, :24], ids[:, 24:]
    assert torch.equal(first, second)
    assert all(len(set(row)) == 24 for row in first.tolist())


def test_a_context_too_short_to_say_anything_twice_is_not_watched() -> None:
    assert repeated_tokens(65, 7, torch.device("cpu")) is None
    assert repeated_tokens(3, 64, torch.device("cpu")) is None


def test_the_figures_are_those_of_the_heads_on_that_text() -> None:
    config = small().model.model_copy(update={"vocab_size": 65})
    model = build_gpt(config, seed=1).eval()
    ids = repeated_tokens(65, 16, torch.device("cpu"))
    table, rows = HeadWatch(ids).heads(model, 3)
    from lab.analysis.capture import capture

    expected = head_stats(capture(model, ids).attention, ids)
    assert table == "head_stats"
    for row in rows:
        assert row["value"] == pytest.approx(expected[row["name"]][row["layer"], row["head"]].item())


def test_looking_costs_less_than_a_twentieth_of_a_second_on_a_pocket() -> None:
    from lab.config import PRESETS

    model = build_gpt(PRESETS["pocket"].model.model_copy(update={"vocab_size": 65}), seed=1).eval()
    watch = HeadWatch(repeated_tokens(65, 64, torch.device("cpu")))
    taken = []
    for step in range(10):
        started = time.process_time()
        with torch.no_grad():
            watch.heads(model, step)
            watch.layers(model, step)
        taken.append(time.process_time() - started)
    assert min(taken) < 0.05
