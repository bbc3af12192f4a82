"""How a conversation becomes tokens, and which of them are learnt.

A model that chats was trained in a frame of its own, written as a template in its tokenizer: `ModelFrame` uses that.
A base model and a GPT of the lab have none: `LabFrame` is a plain one. In both, what is learnt of a turn is what comes
after the frame's invitation to answer: the answer and the token that ends it. Without that end nobody would teach the
model to stop.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from lab.data.tokenizers import Tokenizer
from lab.errors import DataError
from lab.finetuning.examples import Example
from lab.finetuning.formats import Conversation, Turn
from lab.sessions.hf_tokenizer import HFTokenizer

Choice = Literal["auto", "model", "lab"]

_SENTINEL = "SENTINEL"  # an answer whose end can be found in a rendered text


class Frame(Protocol):
    """A way of writing conversations."""

    name: Literal["model", "lab"]
    end: tuple[int, ...]
    """Tokens that end an answer; one, but for tokenizers that have no such token."""

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The conversation so far, and the invitation to answer.

        Raises:
            DataError: the template refuses it, or the tokenizer does not know a character.
        """

    def pieces(self, conversation: Conversation) -> list[tuple[list[int], bool]]:
        """The whole conversation as runs of tokens, each learnt or not.

        Raises:
            DataError: as `prompt_ids`.
        """


def frame_for(tokenizer: Tokenizer, choice: Choice = "auto") -> Frame:
    """The frame that a model is trained and asked in.

    Raises:
        DataError: the model has no template of its own, or one that does not end its answers.
    """
    has_template = isinstance(tokenizer, HFTokenizer) and bool(tokenizer.inner.chat_template)
    if choice == "lab" or (choice == "auto" and not has_template):
        return LabFrame(tokenizer)
    if not isinstance(tokenizer, HFTokenizer) or not has_template:
        raise DataError("The model has no chat template of its own: set chat_template to lab or auto.")
    return ModelFrame(tokenizer)


def example_of(conversation: Conversation, frame: Frame, *, completion_only: bool = True) -> Example:
    """One row as the model sees it.

    Raises:
        DataError: as `Frame.prompt_ids`.
    """
    ids: list[int] = []
    learn: list[bool] = []
    for piece, is_answer in frame.pieces(conversation):
        ids += piece
        learn += [is_answer or not completion_only] * len(piece)
    return Example(tuple(ids), tuple(learn), conversation.row)


class ModelFrame:
    """The template that came with the model.

    What a turn adds is found by rendering the conversation twice, up to the invitation and up to the answer's end, and
    comparing tokens: some templates write the past otherwise than the present, so a prefix is never taken for granted.

    Raises:
        DataError: the template does not end answers with a token of its own.
    """

    name: Literal["model", "lab"] = "model"

    def __init__(self, tokenizer: HFTokenizer):
        self._inner: Any = tokenizer.inner
        self.end = self._end()

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        return self._render(turns, add_generation_prompt=True)

    def pieces(self, conversation: Conversation) -> list[tuple[list[int], bool]]:
        whole = self._render(conversation.turns)
        pieces: list[tuple[list[int], bool]] = []
        done = 0
        for place, turn in enumerate(conversation.turns):
            if turn.role != "assistant":
                continue
            begin = _common(self.prompt_ids(conversation.turns[:place]), whole)
            end = _common(self._render(conversation.turns[: place + 1]), whole)
            if begin < done or end <= begin:
                raise DataError("the chat template writes an answer so that its tokens cannot be told from the rest")
            pieces += [(whole[done:begin], False), (whole[begin:end], True)]
            done = end
        return [*pieces, (whole[done:], False)]

    def _render(self, turns: Sequence[Turn], *, add_generation_prompt: bool = False) -> list[int]:
        from jinja2.exceptions import TemplateError

        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            found = self._inner.apply_chat_template(
                messages, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            raise DataError(f"the model's chat template refuses it ({error})") from error
        return list(found["input_ids"])

    def _end(self) -> tuple[int, ...]:
        """The first token of the tokenizer's own after an answer."""
        turns = (Turn("user", "A"), Turn("assistant", _SENTINEL))
        text = str(self._inner.decode(self._render(turns), clean_up_tokenization_spaces=False))
        after = self._inner(text.rpartition(_SENTINEL)[2], add_special_tokens=False, verbose=False).input_ids
        own = [token for token in after if token in self._inner.added_tokens_decoder]
        if not own:
            raise DataError(
                "The model's chat template writes no end token after an answer, so the model would never learn to "
                "stop: set chat_template to lab."
            )
        return (int(own[0]),)


class LabFrame:
    """A plain frame, written with letters that every tokenizer has.

    Question:
    What is the capital of France?

    Answer:
    The capital of France is Paris.<end>

    <end> is the tokenizer's own; one that reads characters has none, and an empty line stands for it.
    """

    name: Literal["model", "lab"] = "lab"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        end = tokenizer.end_of_text
        self.end = tuple(tokenizer.encode("\n\n")) if end is None else (end,)
        self._gap = "" if end is None else "\n\n"

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        pieces = self._pieces(turns)
        return [token for piece, _ in pieces for token in piece]

    def pieces(self, conversation: Conversation) -> list[tuple[list[int], bool]]:
        return self._pieces(conversation.turns)

    def _pieces(self, turns: Sequence[Turn]) -> list[tuple[list[int], bool]]:
        pieces: list[tuple[list[int], bool]] = []
        gap = ""
        for turn in turns:
            if turn.role == "assistant":
                pieces.append(([*self._encode(turn.content, first=False), *self.end], True))
                gap = self._gap
            else:
                text = turn.content if turn.role == "system" else f"Question:\n{turn.content}\n\nAnswer:\n"
                pieces.append((self._encode(gap + text, first=not pieces), False))
                gap = "\n\n"
        return pieces

    def _encode(self, text: str, *, first: bool) -> list[int]:
        if isinstance(self._tokenizer, HFTokenizer) and not first:
            return list(self._tokenizer.inner(text, add_special_tokens=False, verbose=False).input_ids)
        return self._tokenizer.encode(text)


def special_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts that the tokenizer reads as tokens of its own; in a row they would forge the frame."""
    if not isinstance(tokenizer, HFTokenizer):
        return []
    return [str(token.content) for token in tokenizer.inner.added_tokens_decoder.values() if token.special]


def _common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    for place, (one, other) in enumerate(zip(ids, others, strict=False)):
        if one != other:
            return place
    return min(len(ids), len(others))
