"""Forecasts in a process of their own: a replay is seconds of Python, and Python runs one thread at a time. In the
app's own process replays held that lock nearly all the time, and a training needs it for each operation
(docs/decisions.md).

`Child` is the app's end. The other end is `python -m lab.forecast.child`: it answers one question after another and
ends when nobody is at the other side any more.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.forecast.answers import Answer, Question


NICENESS = 5
"""A third of the weight of others: a training comes first, and on a machine that never rests the answer comes too."""

_PREPARE = "prepare"

REST = 12.0
"""Beside a training it rests this many times as long as it has computed: what it takes then is lost in the noise."""


class Child:
    """The process, from the app's side. For one thread."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "lab.forecast.child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._answers = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()
        self._number = 0
        self.is_idle = True
        """All that was asked is answered."""

    def has_cuda(self) -> bool:
        """The first thing it says, once PyTorch is loaded there.

        Raises:
            EOFError: it ended before.
        """
        return bool(self._answers.recv())

    def prepare(self) -> None:
        """Load what the forecast of a fine-tuning needs: seconds, which nobody should wait for later."""
        self._questions.send(_PREPARE)

    def ask(self, question: "Question", *, beside_training: bool) -> None:
        """Give up what it is at, and ask this.

        Args:
            beside_training: whether this machine trains meanwhile. Then it rests after each replay; else, when all is
                answered, it replays what is one knob away, too.
        """
        self._number += 1
        self.is_idle = False
        self._questions.send((self._number, question, beside_training))

    def give_up(self) -> None:
        """Nobody waits for the answer any more; what comes of it is not listened to."""
        if not self.is_idle:
            self._number += 1
            self.is_idle = True
            self._questions.send(None)

    def listen(self, seconds: float) -> "Answer | None":
        """The next part of the answer to the last question; None if none came in this time.

        Raises:
            EOFError: it ended, for example because the system needed its memory.
        """
        if not self._answers.poll(seconds):
            return None
        number, answer = self._answers.recv()
        if number != self._number:
            return None
        self.is_idle = answer is None
        return answer

    def close(self) -> None:
        """End it, in the middle of an answer."""
        self._process.kill()
        self._process.wait()
        self._questions.close()
        self._answers.close()


def main() -> None:
    """The child's end: until standard input is closed, as it is when the app ends in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the app to hear
    os.nice(NICENESS)
    questions, answers = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # whatever a library prints must not stand between two answers
    import torch

    torch.set_num_threads(1)
    try:
        answers.send(torch.cuda.is_available())  # asks the driver only: no context, which would take GPU memory
        while True:
            asked = questions.recv()
            if asked == _PREPARE:
                _prepare()
            elif asked is not None:
                number, question, beside_training = asked
                turn = _Turn(questions)
                for answer in _said(question, turn):
                    answers.send((number, answer))
                    turn.is_gentle = beside_training and bool(answer.sides)  # the need itself is worth the moment
                if not beside_training:
                    _look_ahead(question, turn)
                answers.send((number, None))
    except (EOFError, BrokenPipeError):
        return


def _prepare() -> None:
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import lab.forecast.answers  # noqa: F401


class _Turn:
    """Asked in each replay whether it is still wanted. Whatever the next message says, this question is over."""

    def __init__(self, questions: Connection):
        self.is_gentle = False
        self._questions = questions
        self._since = time.perf_counter()

    def is_over(self) -> bool:
        rest = REST * (time.perf_counter() - self._since) if self.is_gentle else 0.0
        over = self._questions.poll(rest)
        self._since = time.perf_counter()
        return over


def _said(question: "Question", turn: _Turn) -> Iterator["Answer"]:
    """Part by part, as long as it is wanted."""
    from lab.forecast.answers import Answer, answers
    from lab.forecast.patience import GivenUpError, giving_up_when

    try:
        with giving_up_when(turn.is_over):
            yield from answers(question)
    except GivenUpError:
        return
    except LabError as error:
        yield Answer({}, error=str(error))
    except Exception as error:  # the edge of this process, which has to outlive one bad config
        yield Answer({}, error=f"The forecast broke off: {type(error).__name__}: {error}")


def _look_ahead(question: "Question", turn: _Turn) -> None:
    from lab.forecast.answers import look_ahead
    from lab.forecast.patience import GivenUpError, giving_up_when

    try:
        with giving_up_when(turn.is_over):
            look_ahead(question, turn.is_over)
    except (GivenUpError, LabError):  # such a neighbour cannot be; if somebody asks for it, that answer says so
        return


if __name__ == "__main__":
    main()
