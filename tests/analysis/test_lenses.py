"""Lenses: the last row is the model itself, and tuning can only bring the others closer."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.analysis import lenses
from lab.analysis.capture import capture
from lab.analysis.lenses import lens_rows, read_lens
from lab.analysis.recording import record, record_rows
from lab.analysis.tuned_lens import TunedLens, corpus_streams, train_tuned_lens
from lab.errors import DataError, ModelError
from lab.models.families import Anatomy, anatomy
from tests.tiny_models import VOCAB, some_ids, tiny, tiny_gpt

FAMILIES = ["lab", "gpt2", "llama", "gemma2", "neox"]


def opened(name: str) -> Anatomy:
    return anatomy(tiny_gpt() if name == "lab" else tiny(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_points_are_the_captured_ones(name: str) -> None:
    parts, ids = opened(name), some_ids()
    found = capture(parts, ids).residual
    points = ("pre_attn", "post_attn", "post_ffn", "delta_attn", "delta_ffn")
    for point, values in zip(points, record(parts, ids, *points), strict=True):
        torch.testing.assert_close(values, found[point], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(record_rows(parts, ids), lens_rows(found["pre_attn"], found["post_ffn"]))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_row_is_the_models_own_answer(name: str) -> None:
    parts, ids = opened(name), some_ids()
    with torch.no_grad():
        p = parts(ids).softmax(-1)
    result = read_lens(parts, record_rows(parts, ids), top=3)
    assert result.top_ids.shape == (4, 2, 12, 3)
    assert torch.equal(result.top_ids[-1], p.topk(3).indices)
    torch.testing.assert_close(result.top_probabilities[-1], p.topk(3).values)
    assert torch.equal(result.answer, p.argmax(-1))
    assert (result.answer_rank[-1] == 1).all()
    assert (result.divergence[-1] == 0).all()
    torch.testing.assert_close(result.entropy[-1], -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-5)


def test_rank_and_probability_are_about_the_token_that_was_asked_for() -> None:
    parts, ids = opened("llama"), some_ids(1, 5)
    asked = torch.full((1, 5), 17)
    rows = record_rows(parts, ids)
    result = read_lens(parts, rows, answer=asked)
    with torch.no_grad():
        logits = parts.logits_of(rows)
    for row in range(4):
        order = logits[row, 0].argsort(-1, descending=True)
        assert result.answer_rank[row, 0].tolist() == [(o == 17).nonzero().item() + 1 for o in order]
    torch.testing.assert_close(result.answer_probability, logits.softmax(-1)[..., 17])


def test_divergence_is_torchs_kl_divergence() -> None:
    parts, ids = opened("lab"), some_ids(1, 6)
    rows = record_rows(parts, ids)
    result = read_lens(parts, rows)
    with torch.no_grad():
        log_p = parts.logits_of(rows).log_softmax(-1)
    expected = torch.nn.functional.kl_div(log_p[1], log_p[-1], log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(result.divergence[1], expected)


def test_reading_in_small_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, rows = opened("gpt2"), record_rows(opened("gpt2"), some_ids())
    whole = read_lens(parts, rows)
    monkeypatch.setattr(lenses, "_LOGITS_AT_ONCE", 5 * VOCAB)
    pieces = read_lens(parts, rows)
    for name, values in vars(whole).items():
        torch.testing.assert_close(vars(pieces)[name], values)


def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary() -> None:
    model = tiny_gpt()
    with torch.no_grad():
        model.out_head.weight.zero_()
    result = read_lens(anatomy(model), record_rows(anatomy(model), some_ids()))
    torch.testing.assert_close(result.entropy, torch.full((4, 2, 12), math.log(VOCAB)))


# -- the tuned lens --------------------------------------------------------------------------------------


def trained(parts: Anatomy, **settings: float):  # type: ignore[no-untyped-def]
    tokens = np.random.Generator(np.random.PCG64(3)).integers(3, VOCAB, size=2_000)
    return train_tuned_lens(parts, corpus_streams(parts, tokens, length=24, batch_size=4), steps=40, **settings)


def test_an_untrained_tuned_lens_is_the_logit_lens() -> None:
    parts = opened("lab")
    lens = TunedLens(torch.zeros(4, 32, 32), torch.zeros(4, 32))
    rows = record_rows(parts, some_ids())
    plain, same = read_lens(parts, rows), read_lens(parts, rows, translate=lens.translate)
    assert torch.equal(plain.divergence, same.divergence)


@pytest.mark.parametrize("name", ["lab", "llama"])
def test_training_brings_every_row_closer_to_the_answer_and_leaves_the_last_alone(name: str) -> None:
    parts = opened(name)
    result = trained(parts, learning_rate=3e-3)
    assert result.steps == 40
    assert (result.after[:-1] < result.before[:-1]).all()
    assert result.before[-1] == result.after[-1] == 0
    assert not result.lens.matrices[-1].any()
    assert not result.lens.offsets[-1].any()


def test_the_last_rows_translation_is_already_the_best_there_is() -> None:
    """The gradient of KL(p ‖ p) is 0: the identity cannot be improved upon."""
    parts, rows = opened("lab"), record_rows(opened("lab"), some_ids())
    offset = torch.zeros(32, requires_grad=True)
    own = parts.logits_of(rows[-1]).log_softmax(-1).detach()
    shifted = parts.logits_of(rows[-1] + offset).log_softmax(-1)
    torch.nn.functional.kl_div(shifted, own, log_target=True, reduction="batchmean").backward()
    assert offset.grad is not None
    assert offset.grad.abs().max() < 1e-5


def test_what_a_model_with_a_silent_last_layer_says_is_found_one_row_earlier() -> None:
    """If the last block adds nothing but a constant, the tuned lens learns that constant."""
    model = tiny_gpt()
    with torch.no_grad():
        for layer in (model.trf_blocks[-1].att.out_proj, model.trf_blocks[-1].ff.layers[2]):
            layer.weight.zero_()
            layer.bias.mul_(5)
    result = trained(anatomy(model), learning_rate=1e-2)
    assert result.before[-2] > 0.1
    assert result.after[-2] < result.before[-2] / 20


def test_training_twice_gives_the_same_lens_and_leaves_model_and_generator_alone() -> None:
    parts = opened("lab")
    weights = [p.clone() for p in parts.model.parameters()]
    state = torch.get_rng_state()
    first, second = trained(parts), trained(parts)
    assert torch.equal(first.lens.matrices, second.lens.matrices)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(weights, parts.model.parameters(), strict=True))


def test_a_time_budget_ends_the_training() -> None:
    parts = opened("lab")
    stop_at_once = trained(parts, seconds=1e-9)
    assert stop_at_once.steps == 0
    torch.testing.assert_close(stop_at_once.before, stop_at_once.after)


def test_a_lens_survives_saving(tmp_path: Path) -> None:
    lens = TunedLens(torch.rand(2, 3, 3), torch.rand(2, 3))
    lens.save(tmp_path / "lens.safetensors")
    loaded = TunedLens.load(tmp_path / "lens.safetensors")
    assert torch.equal(loaded.matrices, lens.matrices)
    assert torch.equal(loaded.offsets, lens.offsets)


def test_a_damaged_or_missing_lens_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors cannot be read"):
        TunedLens.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a lens")
    with pytest.raises(ModelError, match="train it again"):
        TunedLens.load(tmp_path / "bad.safetensors")


def test_a_corpus_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(DataError, match="10 tokens, and a window needs 24"):
        next(corpus_streams(opened("lab"), np.arange(10), length=24))
