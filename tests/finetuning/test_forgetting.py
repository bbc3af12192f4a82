"""What a model still knows, against sums done by hand."""

from pathlib import Path

import pytest
import torch

from lab.data.tokenizers import CharTokenizer, GPT2Tokenizer
from lab.finetuning.forgetting import (
    Forgetting,
    Knowledge,
    Question,
    _scored,
    knowledge,
    material_for,
    scores_of,
)
from tests.finetuning.tokenizers import chat_tokenizer
from tests.tiny_models import VOCAB, tiny, tiny_gpt


def test_the_general_loss_is_the_mean_cross_entropy_of_every_predicted_token(tmp_path: Path) -> None:
    model, material = tiny("llama"), material_for(chat_tokenizer(tmp_path), 64, 256)
    windows = material.windows % VOCAB
    found = knowledge(model, type(material)(material.text, windows, ()))
    with torch.no_grad():
        logits = model(input_ids=windows).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.accuracy is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "lab"])
def test_an_answers_score_is_that_of_question_and_answer_read_as_one(family: str, tmp_path: Path) -> None:
    """Each question is read once for its four answers, several questions of a length together, answers padded."""
    model = tiny_gpt() if family == "lab" else tiny(family)
    questions = material_for(chat_tokenizer(tmp_path), 64, 64).questions
    known = [question for question in questions if max(map(max, (question.asked, *question.answers))) < VOCAB]
    assert len(known) > 3
    assert len({len(question.asked) for question in known}) < len(known), "some are read together"
    for scores, question in _scored(model, known, "cpu"):
        for answer, score in zip(question.answers, scores, strict=True):
            ids = torch.tensor([[*question.asked, *answer]])
            with torch.no_grad():
                log_p = (model(ids) if family == "lab" else model(input_ids=ids).logits).log_softmax(-1)
            begin = len(question.asked)
            expected = sum(float(log_p[0, place - 1, ids[0, place]]) for place in range(begin, ids.shape[1]))
            assert score == pytest.approx(expected, abs=1e-3)


def test_an_answer_of_one_token_needs_no_second_reading() -> None:
    question = Question((3, 4, 5), ((6,), (7,)), (1, 1))
    with torch.no_grad():
        log_p = tiny("llama")(input_ids=torch.tensor([[3, 4, 5]])).logits[0, -1].log_softmax(-1)
    assert scores_of(tiny("llama"), question) == pytest.approx([float(log_p[6]), float(log_p[7])], abs=1e-4)


def test_the_labs_own_gpt_is_asked_the_same_way() -> None:
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    probe = Forgetting(CharTokenizer(letters), 64, 256)
    assert probe.material.text == "shakespeare.txt"
    table, rows = probe(tiny_gpt(), 7)
    assert table == "metrics"
    assert {row["name"] for row in rows} == {"forget/loss", "forget/accuracy"}
    assert all(row["step"] == 7 and row["value"] >= 0 for row in rows)


def test_a_tokenizer_that_knows_none_of_the_texts_measures_nothing() -> None:
    probe = Forgetting(CharTokenizer("xyz"), 64, 256)
    assert knowledge(tiny_gpt(), probe.material) == Knowledge(None, None)
    assert probe(tiny_gpt(), 0) == ("metrics", [])


def test_less_of_the_story_is_the_beginning_of_more() -> None:
    tokenizer = GPT2Tokenizer()
    whole = material_for(tokenizer, 1_024, 1_024).windows
    assert torch.equal(material_for(tokenizer, 1_024, 512).windows, whole[:2])
    assert torch.equal(material_for(tokenizer, 1_024, 100).windows, whole[:1, :100])
    assert material_for(tokenizer, 1_024, 8_192).windows.shape == (32, 256)
    assert material_for(tokenizer, 1_024, 1).windows.numel() == 0


def test_the_story_and_all_forty_questions_are_asked_of_a_usual_tokenizer() -> None:
    found = material_for(GPT2Tokenizer(), 1_024, 1_024)
    assert found.windows.shape == (4, 256)
    assert found.text == "alice.txt"
    assert len(found.questions) == 40
    assert all(len(question.answers) == 4 for question in found.questions)
