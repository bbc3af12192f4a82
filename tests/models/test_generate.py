"""Writing text: the same tokens as the textbook's loop, drawn from the distributions that transformers computes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lab.config import GPTConfig
from lab.errors import ConfigError, ModelError
from lab.models.generate import SampledToken, Sampling, generate, next_logits
from lab.models.gpt import AttentionImpl, GPTModel, KVCache, build_gpt
from lab.models.sampling import choose, distribution

CONTEXT = 12
CONFIG = GPTConfig(vocab_size=40, context_length=CONTEXT, emb_dim=32, n_layers=3, n_heads=4)
PROMPT = [3, 1, 4]


def lively(attention_impl: AttentionImpl = "sdpa", **shape: float) -> GPTModel:
    """An untrained model gives all tokens nearly the same probability; with larger weights it has opinions."""
    model = build_gpt(CONFIG.model_copy(update=shape), seed=1, attention_impl=attention_impl)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5)
    return model.eval()


def write(model: GPTModel, sampling: Sampling, prompt: Sequence[int] = PROMPT, **how: object) -> list[SampledToken]:
    return list(generate(model, prompt, sampling, **{"end_of_text": None, **how}))  # type: ignore[arg-type]


def ids_of(tokens: list[SampledToken]) -> list[int]:
    return [token.id for token in tokens]


# The same text with and without shortcuts ---------------------------------------------------------------------------


@torch.no_grad()
def textbook_greedy(model: GPTModel, ids: list[int], count: int) -> list[int]:
    """The loop of every introduction: crop to the context, whole forward pass, best of the last position."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids[-CONTEXT:]]))[0, -1].argmax()))
    return ids[-count:]


@pytest.mark.parametrize("path", ["sdpa", "manual"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_is_the_textbook_loops_over_more_than_twice_the_context(
    path: AttentionImpl, use_cache: bool
) -> None:
    model = lively(path)
    greedy = Sampling(temperature=0, max_new_tokens=2 * CONTEXT + 5)
    assert ids_of(write(model, greedy, use_cache=use_cache)) == textbook_greedy(model, PROMPT, 2 * CONTEXT + 5)


@pytest.mark.parametrize("prompt", [PROMPT, list(range(CONTEXT - 1)), list(range(CONTEXT)), list(range(3 * CONTEXT))])
def test_cached_text_equals_uncached_text_whatever_the_prompts_length(prompt: list[int]) -> None:
    model = lively()
    sampling = Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=4, max_new_tokens=2 * CONTEXT)
    cached, uncached = (write(model, sampling, prompt, use_cache=use_cache) for use_cache in (True, False))
    assert ids_of(cached) == ids_of(uncached)
    for one, other in zip(cached, uncached, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_cached_logits_equal_those_of_a_whole_forward_pass_within_and_past_the_context() -> None:
    model = lively().double()  # so that the order of a sum does not blur the comparison
    cache = KVCache()
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(2 * CONTEXT):
            whole = model(torch.tensor([ids[-CONTEXT:]]))[0, -1].float()
            torch.testing.assert_close(next_logits(model, ids, cache), whole, atol=1e-6, rtol=1e-6)
            ids.append((7 * ids[-1] + len(ids)) % 40)


def test_with_a_cache_only_what_is_new_is_read_until_the_context_is_full() -> None:
    model = lively()
    read: list[int] = []
    model.tok_emb.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    write(model, Sampling(temperature=0, max_new_tokens=CONTEXT))
    assert read == [3] + 9 * [1] + 2 * [CONTEXT]  # 3 + 9 = 12 positions fill the context


# Drawing ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(200, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1_000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.95, 1.0])
def test_temperature_top_k_and_top_p_give_the_distribution_that_transformers_gives(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    from transformers.generation import logits_process as theirs

    steps = [theirs.TemperatureLogitsWarper(temperature)]
    steps += [theirs.TopKLogitsWarper(top_k)] if top_k else []
    steps += [theirs.TopPLogitsWarper(top_p)] if top_p else []
    scores = logits.double()[None]
    for step in steps:
        scores = step(None, scores)
    ours = distribution(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours, scores.softmax(-1)[0])


def test_drawn_tokens_are_as_frequent_as_the_distribution_says() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0, -float("inf")])
    sampling = Sampling(temperature=1.3)
    generator = torch.Generator().manual_seed(0)
    draws = 5_000
    counts = torch.bincount(torch.tensor([choose(logits, sampling, generator) for _ in range(draws)]), minlength=5)
    probabilities = distribution(logits, sampling)
    three_sigma = 3 * (draws * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - draws * probabilities).abs() <= three_sigma).all()
    assert counts[4] == 0


def test_temperature_0_takes_the_best_and_a_tiny_temperature_does_too(logits: Tensor) -> None:
    for temperature in (0, 1e-9):
        generator = torch.Generator().manual_seed(0)
        assert choose(logits, Sampling(temperature=temperature), generator) == logits.argmax()


def test_the_best_token_stays_however_small_top_p_is(logits: Tensor) -> None:
    probabilities = distribution(logits, Sampling(temperature=1, top_p=1e-12))
    assert probabilities.argmax() == logits.argmax()
    assert probabilities.max() == 1


def test_the_probability_of_a_token_is_the_models_own_before_temperature_and_cuts() -> None:
    model = lively()
    tokens = write(model, Sampling(temperature=0.4, top_k=3, max_new_tokens=6, seed=2))
    ids = PROMPT + ids_of(tokens)
    with torch.no_grad():
        all_probabilities = model(torch.tensor([ids]))[0].softmax(-1)
    for position, token in enumerate(tokens, start=len(PROMPT) - 1):
        assert token.probability == pytest.approx(float(all_probabilities[position, token.id]), abs=1e-6)


# Randomness ---------------------------------------------------------------------------------------------------------


def test_same_seed_same_text_and_another_seed_another_text() -> None:
    model = lively()
    first, again, other = (write(model, Sampling(temperature=1, seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_torchs_default_generator_is_neither_read_nor_moved() -> None:
    model = lively(drop_rate=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = write(model, Sampling(temperature=1))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert write(model, Sampling(temperature=1)) == first


def test_a_model_in_training_mode_writes_without_dropout_and_is_in_training_mode_between_tokens() -> None:
    expected = write(lively(), Sampling(max_new_tokens=5))
    model = lively(drop_rate=0.5).train()
    tokens = []
    for token in generate(model, PROMPT, Sampling(max_new_tokens=5), end_of_text=None):
        assert all(module.training for module in model.modules())
        tokens.append(token)
    assert tokens == expected


# Streaming and ends -------------------------------------------------------------------------------------------------


def test_tokens_come_one_by_one_as_they_are_computed() -> None:
    model = lively()
    passes: list[int] = []
    model.tok_emb.register_forward_pre_hook(lambda module, args: passes.append(1))
    stream = generate(model, PROMPT, Sampling(), end_of_text=None)
    assert len(passes) == 0
    next(stream)
    assert len(passes) == 1


def test_stop_is_looked_at_before_every_token() -> None:
    answers = iter([False, False, False, True])
    assert len(write(lively(), Sampling(), stop=lambda: next(answers))) == 3


def test_text_ends_before_the_end_of_text_token_unless_told_otherwise() -> None:
    model = lively()
    greedy = Sampling(temperature=0, max_new_tokens=20)
    whole = ids_of(write(model, greedy))
    end = whole[4]
    assert ids_of(write(model, greedy, end_of_text=end)) == whole[: whole.index(end)]
    on = Sampling(temperature=0, max_new_tokens=20, stop_at_end=False)
    assert ids_of(write(model, on, end_of_text=end)) == whole


def test_no_more_than_max_new_tokens_are_written() -> None:
    assert len(write(lively(), Sampling(max_new_tokens=17))) == 17


# What a person can get wrong ----------------------------------------------------------------------------------------


def test_an_empty_prompt_is_refused_at_the_call() -> None:
    with pytest.raises(ModelError, match="The prompt is empty"):
        generate(lively(), [], Sampling(), end_of_text=None)


@pytest.mark.parametrize("id", [40, -1])
def test_a_token_of_another_vocabulary_is_refused_at_the_call(id: int) -> None:
    with pytest.raises(ModelError, match=f"Token id {id} in the prompt is outside this model's vocabulary of 40"):
        generate(lively(), [1, id], Sampling(), end_of_text=None)


def test_weights_that_are_not_numbers_are_named_as_the_cause() -> None:
    model = lively()
    with torch.no_grad():
        model.final_norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not numbers: its weights are damaged, or training diverged"):
        write(model, Sampling())


def test_all_impossible_sampling_values_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(temperature=-1, top_k=0, top_p=1.5, max_new_tokens=0, seed=-3)
    assert [mistake.split()[0] for mistake in caught.value.mistakes] == [
        "temperature",
        "top_k",
        "top_p",
        "max_new_tokens",
        "seed",
    ]


def test_a_temperature_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="temperature is nan"):
        Sampling(temperature=float("nan"))
