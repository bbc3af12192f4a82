"""It learns."""

import math

import pytest
import torch

from lab.data.batches import MicroBatch
from tests.training.helpers import GivenBatches, small, train, trainer_for


def test_overfits_one_batch_to_a_loss_below_a_twentieth() -> None:
    ids = torch.randint(0, 40, (4, 17), generator=torch.Generator().manual_seed(0))
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    config = small(max_steps=150, emb_dim=32, learning_rate=1e-2, eval_every=1_000)
    trainer = trainer_for(config, GivenBatches([batch]))
    trainer.train()
    losses = trainer.recorder.metric("train/loss")
    assert losses[1] > 3.5
    assert losses[150] < 0.05


def test_validation_loss_of_a_short_run_falls() -> None:
    """On `tiny`, 41 characters: from knowing nothing (ln 41 = 3.7) to clearly less than their frequencies tell."""
    trained = train(small(max_steps=120, batch_size=8, emb_dim=32, eval_every=40, eval_tokens=None))
    losses = list(trained.rows.metric("val/loss").values())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 1.2


@pytest.mark.parametrize(("tokenizer", "share"), [("char", 0.04), ("gpt2", 0.02)])
def test_first_loss_is_that_of_knowing_nothing(tokenizer: str, share: float) -> None:
    trained = train(small(tokenizer=tokenizer, max_steps=1, emb_dim=128, n_layers=1))
    vocabulary = trained.run.config().model.vocab_size
    assert trained.rows.metric("val/loss")[0] == pytest.approx(math.log(vocabulary), rel=share)
    assert trained.losses[1] == pytest.approx(math.log(vocabulary), rel=share)


def test_perplexity_and_bits_per_byte_are_the_validation_loss_in_other_units() -> None:
    trained = train(small(max_steps=2, eval_tokens=None))
    loss = trained.rows.metric("val/loss")[2]
    assert trained.rows.metric("val/perplexity")[2] == pytest.approx(math.exp(loss))
    # `tiny` is ASCII: with one character a token, a token is a byte.
    assert trained.rows.metric("val/bits_per_byte")[2] == pytest.approx(loss / math.log(2))


def test_learning_rate_row_of_a_step_is_the_rate_of_that_update() -> None:
    trained = train(small(max_steps=4, warmup_steps=2, learning_rate=0.01, schedule="constant"))
    assert trained.rows.metric("train/learning_rate") == {1: 0.005, 2: 0.01, 3: 0.01, 4: 0.01}


def test_every_step_has_its_loss_and_tokens() -> None:
    trained = train(small(max_steps=5, grad_accum_steps=2))
    rows = [row for row in trained.rows.tables["metrics"] if row["name"] == "train/loss"]
    assert [(row["step"], row["tokens_seen"]) for row in rows] == [(s, s * 2 * 4 * 16) for s in range(1, 6)]


def test_speed_memory_and_share_of_the_peak_are_recorded() -> None:
    trained = train(small(max_steps=5))
    assert trained.rows.metric("train/tokens_per_second")[5] > 0
    assert 0 < trained.rows.metric("train/mfu")[5] < 1
    assert 0.05 < trained.rows.metric("system/memory_gib")[5] < 50
