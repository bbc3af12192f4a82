"""The adapter turned from nothing to more than it was trained for, and what it changed in each token."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from lab.errors import ModelError
from lab.finetuning.adapter import attach, write_adapter
from lab.finetuning.answering import answer_tokens
from lab.finetuning.base import find_base, load_base
from lab.finetuning.chat import reply, spoken, turned
from lab.finetuning.formats import Turn
from lab.models.sampling import Sampling
from lab.sessions import ModelSession, open_session
from tests.finetuning.helpers import CPU, config_for, stir_adapter, tiny_folder
from tests.tiny_models import tiny_gpt

QUESTION = (Turn("user", "What is the sea?"),)
GREEDY = Sampling(temperature=0.0, max_new_tokens=12, seed=0)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSession]:
    """A session of a tiny model with an adapter that changes it a lot."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_HOME", str(home))
        config = config_for(tiny_folder(home / "tiny"))
        base = find_base(config.model.model)
        model, _ = attach(load_base(base, config, "fp32", CPU), config.model, 1, address=base.address)
        stir_adapter(model)
        yield open_session(str(write_adapter(model, home / "adapter")), precision="fp32")


def test_turned_to_zero_it_is_the_base_and_to_one_what_was_trained(tuned: ModelSession) -> None:
    ids = torch.arange(3, 40)[None]
    trained = tuned.logits(ids)
    with tuned.lock, tuned.using("base"):
        base = tuned.logits(ids)
    with turned(tuned, 0.0):
        assert torch.allclose(tuned.logits(ids), base, atol=1e-5)
    with turned(tuned, 1.0):
        assert torch.equal(tuned.logits(ids), trained)
    with turned(tuned, 1.5):
        assert not torch.allclose(tuned.logits(ids), trained, atol=1e-2)
    assert torch.equal(tuned.logits(ids), trained), "afterwards it is as it was trained"


def test_at_strength_zero_nothing_is_the_adapters_doing(tuned: ModelSession) -> None:
    found = reply(tuned, QUESTION, GREEDY, scale=0.0)
    assert found.words
    assert all(word.kl == 0 for word in found.words)
    assert all(word.probability == word.base_probability for word in found.words)


def test_the_colour_of_a_token_is_the_divergence_at_its_place(tuned: ModelSession) -> None:
    from lab.finetuning.frames import frame_for

    found = reply(tuned, QUESTION, GREEDY)
    ids = frame_for(tuned.tokenizer).prompt_ids(QUESTION)
    whole = torch.tensor([[*ids, *(word.token_id for word in found.words)]])
    p = tuned.logits(whole)[0].log_softmax(-1)
    with tuned.lock, tuned.using("base"):
        q = tuned.logits(whole)[0].log_softmax(-1)
    for place, word in enumerate(found.words, start=len(ids) - 1):
        by_hand = float((p[place].exp() * (p[place] - q[place])).sum())
        assert word.kl == pytest.approx(by_hand, rel=1e-3, abs=1e-5)
        assert word.probability == pytest.approx(float(p[place, word.token_id].exp()), rel=1e-3)
    assert max(word.kl for word in found.words) > 0.01


def test_a_model_that_was_tuned_as_a_whole_is_compared_with_what_it_was_tuned_from(tmp_path: Path) -> None:
    from lab.finetuning.frames import frame_for

    base = open_session(str(tiny_folder(tmp_path / "base")), precision="fp32")
    whole = open_session(str(tiny_folder(tmp_path / "whole")), precision="fp32")
    with torch.no_grad():
        whole.model.model.layers[0].mlp.down_proj.weight.mul_(3)  # type: ignore[union-attr, index]
    found = reply(whole, QUESTION, GREEDY, base=base)
    start = frame_for(whole.tokenizer).prompt_ids(QUESTION)
    ids = torch.tensor([[*start, *(word.token_id for word in found.words)]])
    p, q = whole.logits(ids)[0].log_softmax(-1), base.logits(ids)[0].log_softmax(-1)
    by_hand = (p.exp() * (p - q)).sum(-1)[len(start) - 1 : -1]
    assert [word.kl for word in found.words] == pytest.approx(by_hand.tolist(), rel=1e-3, abs=1e-5)
    assert max(word.kl for word in found.words) > 0.001


def test_words_come_one_by_one_and_others_get_their_turn_in_between(tuned: ModelSession) -> None:
    words = spoken(tuned, QUESTION, GREEDY)
    first = next(words)
    ids = torch.arange(3, 40)[None]
    with tuned.lock, tuned.using("base"):
        base = tuned.logits(ids)
    assert not torch.equal(tuned.logits(ids), base), "between two words the model follows whoever asks"
    assert [first, *words] == list(reply(tuned, QUESTION, GREEDY).words)


def writes(*ids: int) -> list[int]:
    """What is left of these tokens when the frame ends an answer with 7, 7, 8."""
    model = tiny_gpt()

    def read(so_far: Sequence[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([*ids, 0, 0][len(so_far) - 1]), 12).float()

    sampling = Sampling(temperature=0.0, max_new_tokens=len(ids))
    return [token.id for token in answer_tokens(model, read, [1], sampling, (7, 7, 8), lambda: False)]


def test_the_signs_that_end_an_answer_are_left_out_and_what_only_begins_like_them_is_kept() -> None:
    assert writes(1, 2, 7, 7, 8, 3) == [1, 2]
    assert writes(7, 7, 7, 8, 3) == [7]
    assert writes(1, 7, 2, 7, 7) == [1, 7, 2, 7, 7]
    assert writes(7, 7, 8) == []


def test_a_strength_out_of_range_and_a_model_without_an_adapter_are_refused(
    tuned: ModelSession, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"from 0 to 1\.5, not to 2"):
        reply(tuned, QUESTION, GREEDY, scale=2.0)
    plain = open_session(str(tiny_folder(tmp_path / "plain")), precision="fp32")
    with pytest.raises(ModelError, match="has no adapter"), turned(plain, 1.0):
        pass
    assert all(word.kl == 0 for word in reply(plain, QUESTION, GREEDY).words)
