"""The validation loss reads batches of its own, and samples are written: what both need, against the allocator."""

import numpy as np
import pytest

from lab.config import PRESETS, changed
from lab.data.batches import ValidationWindows
from lab.forecast.lookup import PROMPT_TOKENS
from lab.forecast.memory import forecast
from lab.models.generate import generate
from lab.models.sampling import Sampling
from lab.training.pretraining import EVAL_TOKENS_AT_ONCE
from tests.forecast.reference import allocator_peak, real_trainer

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = changed(
    PRESETS["pocket"], emb_dim=32, n_layers=2, n_heads=2, context_length=16, batch_size=4, precision="fp32", threads=1,
    vocab_size=60, max_steps=5,
)  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"eval_tokens": 64},  # less than the 4,096 tokens that are read at once otherwise
        {"eval_tokens": 5_000},
        {"batch_size": 400},  # a training batch of more than 4,096 tokens is read at once here too
        {"context_length": 128, "vocab_size": 3_000, "n_layers": 5},
    ],
    ids=str,
)
def test_an_evaluation_needs_what_was_forecast(values: dict[str, int]) -> None:
    config = changed(TINY, **{"eval_tokens": None, "stride": None, **values})

    text = np.random.Generator(np.random.PCG64(0)).integers(0, config.model.vocab_size, 20_000, dtype=np.uint16)

    def evaluate() -> object:
        trainer = real_trainer(config)
        context = config.model.context_length
        trainer.task._validation = ValidationWindows(
            text, context_length=context, eval_tokens=config.train.eval_tokens,
            batch_size=max(config.train.batch_size, EVAL_TOKENS_AT_ONCE // context),
        )  # fmt: skip
        trainer.task.evaluate(lambda: False)
        return trainer

    said = forecast(config, "cpu").phases["evaluation"]
    assert allocator_peak(evaluate) == pytest.approx(said.bytes - said.kinds["optimizer"], rel=0.01)


@pytest.mark.parametrize("values", [{"sample_tokens": 20}, {"sample_tokens": 100}, {"vocab_size": 20_000}], ids=str)
def test_writing_a_sample_needs_no_more_than_was_forecast_and_not_much_less(values: dict[str, int]) -> None:
    config = changed(TINY, **{"context_length": 64, "emb_dim": 128, "stride": None, **values})

    def write() -> object:
        trainer = real_trainer(config)
        trainer.task.model.eval()
        written = generate(
            trainer.task.model, [1] * PROMPT_TOKENS, Sampling(max_new_tokens=config.train.sample_tokens, seed=0),
            end_of_text=None,
        )  # fmt: skip
        assert len(list(written)) == config.train.sample_tokens
        return trainer

    said = forecast(config, "cpu").phases["generation"]
    needed, expected = allocator_peak(write), said.bytes - said.kinds["optimizer"]
    assert 0.9 * expected < needed < 1.01 * expected
