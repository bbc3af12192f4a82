"""What the model sees and what of it is learnt, against TRL's own preparation of the same rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.config import FineTuneConfig, changed
from lab.data.tokenizers import CharTokenizer, GPT2Tokenizer
from lab.finetuning.datasets import look, prepare
from lab.finetuning.formats import Conversation, Turn, recognise
from lab.finetuning.frames import LabFrame, ModelFrame, example_of
from lab.finetuning.rows import BUNDLED, read_dataset
from lab.sessions.hf_tokenizer import HFTokenizer
from tests.finetuning.tokenizers import MARKED, chat_tokenizer

MARKED_SMOLLM2 = MARKED.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}",
    1,
)


def trl_rows(conversations: list[Conversation], tokenizer: Any, marked: str) -> list[dict[str, Any]]:
    """What TRL makes of the conversations: prompt and completion where there is one answer, else assistant only."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    trl = pytest.importorskip("trl", reason="trl is not installed")
    rows = []
    single = all(len(conversation.answers) == 1 for conversation in conversations)
    for conversation in conversations:
        messages = [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
        rows.append({"prompt": messages[:-1], "completion": messages[-1:]} if single else {"messages": messages})
    args = SimpleNamespace(
        dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=not single, max_length=4_096,
        truncation_mode="keep_start", shuffle_dataset=False, seed=0,
    )  # fmt: skip
    itself = SimpleNamespace(
        _tokenizer=tokenizer, chat_template=None if single else marked, completion_only_loss=single
    )
    found = trl.SFTTrainer._prepare_dataset(
        itself, datasets.Dataset.from_list(rows), tokenizer, args, packing=False, formatting_func=None,
        dataset_name="train",
    )  # fmt: skip
    return list(found)


def assert_equal_to_trl(tokenizer: HFTokenizer, dataset: str, marked: str) -> None:
    conversations = recognise(read_dataset(dataset)[:40]).conversations
    frame = ModelFrame(tokenizer)
    theirs = trl_rows(conversations, tokenizer.inner, marked)
    assert len(theirs) == len(conversations)
    for conversation, row in zip(conversations, theirs, strict=True):
        ours = example_of(conversation, frame)
        assert list(ours.ids) == row["input_ids"]
        labels = [token if learnt else -100 for token, learnt in zip(ours.ids, ours.learn, strict=True)]
        assert labels == row["labels"]


@pytest.mark.parametrize("dataset", [one.name for one in BUNDLED])
def test_tokens_and_labels_equal_trl_for_each_format(dataset: str, tmp_path: Path) -> None:
    assert_equal_to_trl(chat_tokenizer(tmp_path), dataset, MARKED)


@pytest.mark.parametrize("dataset", [one.name for one in BUNDLED])
def test_tokens_and_labels_equal_trl_with_the_tokenizer_of_a_real_model(dataset: str, smollm2: Path) -> None:
    assert_equal_to_trl(HFTokenizer(smollm2), dataset, MARKED_SMOLLM2)


TWO_TURNS = Conversation(
    (
        Turn("system", "Be kind."), Turn("user", "One?"), Turn("assistant", "Two."), Turn("user", "Three?"),
        Turn("assistant", "Four."),
    ),
    row=1,
)  # fmt: skip


def learnt(tokenizer: Any, example: Any) -> str:
    return "".join(
        tokenizer.label(token) for token, is_learnt in zip(example.ids, example.learn, strict=True) if is_learnt
    )


def test_every_answer_and_its_end_token_are_learnt_and_nothing_else(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path)
    found = example_of(TWO_TURNS, ModelFrame(tokenizer))
    assert learnt(tokenizer, found) == r"Two.<|im_end|>\nFour.<|im_end|>\n"
    assert all(example_of(TWO_TURNS, ModelFrame(tokenizer), completion_only=False).learn)


def test_the_plain_frame_ends_answers_with_the_end_of_text() -> None:
    tokenizer = GPT2Tokenizer()
    found = example_of(TWO_TURNS, LabFrame(tokenizer))
    assert tokenizer.decode(found.ids).startswith("Be kind.\n\nQuestion:\nOne?\n\nAnswer:\nTwo.<|endoftext|>")
    learnt_ids = [token for token, is_learnt in zip(found.ids, found.learn, strict=True) if is_learnt]
    assert tokenizer.decode(learnt_ids) == "Two.<|endoftext|>Four.<|endoftext|>"
    assert found.ids.count(50_256) == 2


def test_a_tokenizer_without_an_end_token_ends_answers_with_an_empty_line() -> None:
    tokenizer = CharTokenizer("".join(sorted(set("BekindQustio:AnwrOTFhT?.\n TwoFur"))))
    found = example_of(TWO_TURNS, LabFrame(tokenizer))
    assert tokenizer.decode(found.ids) == (
        "Be kind.\n\nQuestion:\nOne?\n\nAnswer:\nTwo.\n\nQuestion:\nThree?\n\nAnswer:\nFour.\n\n"
    )


@pytest.mark.parametrize("frame_of", [ModelFrame, LabFrame])
def test_asking_begins_exactly_as_training_did(frame_of: Any, tmp_path: Path) -> None:
    frame = frame_of(chat_tokenizer(tmp_path))
    whole = example_of(TWO_TURNS, frame)
    for place in (2, 4):
        asked = frame.prompt_ids(TWO_TURNS.turns[:place])
        assert list(whole.ids[: len(asked)]) == asked
        assert whole.learn[len(asked)]
        assert not whole.learn[len(asked) - 1]


def test_a_gpt_that_reads_shakespeares_letters_can_learn_two_of_the_bundled_sets() -> None:
    shakespeare = CharTokenizer("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    for dataset in ("pirate", "curious"):
        config = changed(FineTuneConfig(), dataset=dataset, max_length=512)
        assert prepare(config, shakespeare).report.template == "lab"


def test_an_unknown_character_is_named_with_its_row() -> None:
    found = look(changed(FineTuneConfig(), dataset="json"), CharTokenizer("\nabc :?QuestionAwr"))
    assert any(mistake.startswith("In row 1 and 259 more:") or "In row 1" in mistake for mistake in found.mistakes)
