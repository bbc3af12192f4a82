"""Texts that are being written in the background, one at a time.

A page cannot write a long text itself: Streamlit drops what a script was doing at the next click. So a thread
writes, and every poll of the page reads how far it has come.
"""

import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.errors import LabError, RunError

if TYPE_CHECKING:
    from lab.models.sampling import Sampling
    from lab.sessions import GeneratedPiece

KEPT = 50
"""Texts remembered; older ones are forgotten."""


@dataclass
class Generation:
    """A text and how far it is. `pieces` only grows."""

    ref: str
    prompt: str
    precision: str = "auto"
    pieces: "list[GeneratedPiece]" = field(default_factory=list)
    step: int | None = None
    """The step of the weights that write; None until they are loaded, and for a model that was not trained here."""
    done: bool = False
    error: str | None = None
    stop_asked: bool = False

    @property
    def text(self) -> str:
        """What was written so far, without the prompt."""
        return "".join(piece.text for piece in self.pieces)


class Generations:
    """Begins, watches and stops background texts."""

    def __init__(self) -> None:
        self._all: dict[str, Generation] = {}
        self._turn = threading.Lock()

    def begin(self, ref: str, prompt: str, sampling: "Sampling", precision: str = "auto") -> str:
        """Start writing; returns the id of the text.

        Args:
            ref: any model that a session can open.
            precision: of a model that was not trained here.
        """
        generation_id = secrets.token_hex(6)
        self._all[generation_id] = generation = Generation(ref, prompt, precision)
        for old in list(self._all)[:-KEPT]:
            del self._all[old]
        threading.Thread(
            target=self._write, args=(generation, sampling), name=f"generation-{generation_id}", daemon=True
        ).start()
        return generation_id

    def get(self, generation_id: str) -> Generation:
        """The text with this id.

        Raises:
            RunError: it is not known, or no longer.
        """
        if generation_id not in self._all:
            raise RunError("That text is no longer kept; generate it again.")
        return self._all[generation_id]

    def stop(self, generation_id: str) -> None:
        self.get(generation_id).stop_asked = True

    def stop_all(self) -> None:
        for generation in list(self._all.values()):  # a copy: another page may begin a text meanwhile
            generation.stop_asked = True

    def _write(self, generation: Generation, sampling: "Sampling") -> None:
        try:
            with self._turn:
                self._fill(generation, sampling)
        except LabError as error:
            generation.error = str(error)
        except Exception as error:  # the edge of this thread: told on the page
            generation.error = f"Writing broke off with {type(error).__name__}: {error}"
        finally:
            generation.done = True

    def _fill(self, generation: Generation, sampling: "Sampling") -> None:
        from lab.sessions import shelf
        from lab.training.threads import use_threads

        use_threads(1)  # a training beside it keeps its cores
        session = shelf.get(generation.ref, precision=generation.precision)  # type: ignore[arg-type]
        generation.step = session.step
        for piece in session.generate(generation.prompt, sampling, stop=lambda: generation.stop_asked):
            generation.pieces.append(piece)
