"""What a model still knows, against sums done by hand."""

from pathlib import Path

import pytest
import torch

from lab.data.tokenizers import CharTokenizer, GPT2Tokenizer
from lab.finetuning.forgetting import Forgetting, Knowledge, knowledge, material_for, scores_of
from tests.finetuning.tokenizers import chat_tokenizer
from tests.tiny_models import VOCAB, tiny, tiny_gpt


def test_the_general_loss_is_the_mean_cross_entropy_of_every_predicted_token(tmp_path: Path) -> None:
    model, material = tiny("llama"), material_for(chat_tokenizer(tmp_path), 64)
    windows = material.windows % VOCAB
    found = knowledge(model, type(material)(material.text, windows, ()))
    with torch.no_grad():
        logits = model(input_ids=windows).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.accuracy is None


def test_an_answers_score_is_the_sum_over_its_tokens_alone_whatever_it_is_padded_with(tmp_path: Path) -> None:
    model = tiny("llama")
    question = material_for(chat_tokenizer(tmp_path), 64).questions[0]
    scores = scores_of(model, question)
    for answer, score in zip(question.answers, scores, strict=True):
        ids = torch.tensor([[*question.asked, *answer]])
        with torch.no_grad():
            log_p = model(input_ids=ids).logits.log_softmax(-1)
        begin = len(question.asked)
        expected = sum(float(log_p[0, place - 1, ids[0, place]]) for place in range(begin, ids.shape[1]))
        assert score == pytest.approx(expected, abs=1e-3)


def test_the_labs_own_gpt_is_asked_the_same_way() -> None:
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    probe = Forgetting(CharTokenizer(letters), 64)
    assert probe.material.text == "shakespeare.txt"
    table, rows = probe(tiny_gpt(), 7)
    assert table == "metrics"
    assert {row["name"] for row in rows} == {"forget/loss", "forget/accuracy"}
    assert all(row["step"] == 7 and row["value"] >= 0 for row in rows)


def test_a_tokenizer_that_knows_none_of_the_texts_measures_nothing() -> None:
    probe = Forgetting(CharTokenizer("xyz"), 64)
    assert knowledge(tiny_gpt(), probe.material) == Knowledge(None, None)
    assert probe(tiny_gpt(), 0) == ("metrics", [])


def test_the_story_and_all_forty_questions_are_asked_of_a_usual_tokenizer() -> None:
    found = material_for(GPT2Tokenizer(), 1_024)
    assert found.windows.shape == (4, 256)
    assert found.text == "alice.txt"
    assert len(found.questions) == 40
    assert all(len(question.answers) == 4 for question in found.questions)
