"""Texts and answers that are being written in the background, one at a time.

A page cannot write a long text itself: Streamlit drops what a script was doing at the next click. So a thread
writes, and every poll of the page reads how far it has come.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, RunError

if TYPE_CHECKING:
    from lab.finetuning.chat import Word
    from lab.models.sampling import Sampling
    from lab.sessions import GeneratedPiece, ModelSession

KEPT = 50
"""Texts remembered, and as many answers; older ones are forgotten."""


@dataclass(kw_only=True)
class Writing:
    """Something that is being written, and how far it is."""

    step: int | None = None
    """The step of the weights that write; None until they are loaded, and for a model that was not trained here."""
    done: bool = False
    error: str | None = None
    stop_asked: bool = False


@dataclass
class Generation(Writing):
    """A text. `pieces` only grows."""

    ref: str
    prompt: str
    precision: str = "auto"
    pieces: "list[GeneratedPiece]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """What was written so far, without the prompt."""
        return "".join(piece.text for piece in self.pieces)


@dataclass
class Chat(Writing):
    """What a fine-tuning run's base and its tuned model say to a question. Both lists only grow, the base's first."""

    run_id: str
    question: str
    scale: float
    """Of the adapter: 1 is as it was trained."""
    base: "list[Word]" = field(default_factory=list)
    tuned: "list[Word]" = field(default_factory=list)


class Generations:
    """Begins, watches and stops what is written in the background."""

    def __init__(self) -> None:
        self._texts: dict[str, Generation] = {}
        self._chats: dict[str, Chat] = {}
        """By run: any page that looks at the run finds its newest question, also after a reload."""
        self._turn = threading.Lock()

    def begin(self, ref: str, prompt: str, sampling: "Sampling", precision: str = "auto") -> str:
        """Start writing; returns the id of the text.

        Args:
            ref: any model that a session can open.
            precision: of a model that was not trained here.
        """
        generation_id = secrets.token_hex(6)
        generation = Generation(ref, prompt, precision)
        _keep(self._texts, generation_id, generation)
        self._start(generation, lambda: _fill_text(generation, sampling))
        return generation_id

    def get(self, generation_id: str) -> Generation:
        """The text with this id.

        Raises:
            RunError: it is not known, or no longer.
        """
        if generation_id not in self._texts:
            raise RunError("That text is no longer kept; generate it again.")
        return self._texts[generation_id]

    def stop(self, generation_id: str) -> None:
        self.get(generation_id).stop_asked = True

    def ask(self, run_id: str, step: int | None, question: str, sampling: "Sampling", scale: float) -> Chat:
        """Let a fine-tuning run's base and its state answer. A question that the run is still answering ends.

        Args:
            step: of the checkpoint; None takes the newest state.
        """
        self.stop_chat(run_id)
        self._chats.pop(run_id, None)  # so that the new one stands last
        chat = Chat(run_id, question, scale)
        _keep(self._chats, run_id, chat)
        self._start(chat, lambda: _fill_chat(chat, step, sampling))
        return chat

    def chat(self, run_id: str) -> Chat | None:
        """The newest question to this run, and the answers so far; None when there is none, or no longer."""
        return self._chats.get(run_id)

    def stop_chat(self, run_id: str) -> None:
        """End the answers of this run at their next token; nothing happens when there are none."""
        if (chat := self.chat(run_id)) is not None:
            chat.stop_asked = True

    def stop_all(self) -> None:
        for one in [*self._texts.values(), *self._chats.values()]:  # a copy: another page may begin a text meanwhile
            one.stop_asked = True

    def _start(self, writing: Writing, fill: Callable[[], None]) -> None:
        threading.Thread(target=self._write, args=(writing, fill), name="generation", daemon=True).start()

    def _write(self, writing: Writing, fill: Callable[[], None]) -> None:
        try:
            with self._turn:
                from lab.training.threads import use_threads

                use_threads(1)  # a training beside it keeps its cores
                if not writing.stop_asked:
                    fill()
        except LabError as error:
            writing.error = str(error)
        except Exception as error:  # the edge of this thread: told on the page
            writing.error = f"Writing broke off with {type(error).__name__}: {error}"
        finally:
            writing.done = True


def _keep(kept: dict[str, Any], key: str, one: Writing) -> None:
    kept[key] = one
    for old in list(kept)[:-KEPT]:
        del kept[old]


def _fill_text(generation: Generation, sampling: "Sampling") -> None:
    from lab.sessions import shelf

    session = shelf.get(generation.ref, precision=generation.precision)  # type: ignore[arg-type]
    generation.step = session.step
    for piece in session.generate(generation.prompt, sampling, stop=lambda: generation.stop_asked):
        generation.pieces.append(piece)


def _fill_chat(chat: Chat, step: int | None, sampling: "Sampling") -> None:
    from lab.finetuning.chat import answers

    def opened(session: "ModelSession") -> None:
        chat.step = session.step

    sides = {"base": chat.base, "tuned": chat.tuned}
    for side, word in answers(
        chat.run_id, step, chat.question, sampling, scale=chat.scale, stop=lambda: chat.stop_asked, opened=opened
    ):
        sides[side].append(word)
