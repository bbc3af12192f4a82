"""Memory forecasts for the page. A process of their own computes them (`lab.forecast.child`); a thread listens to it.

One process for all tabs. A tab says what it looks at now; what it looked at before is dropped between two replays.
"""

import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from app.ui.state import get_engine
from lab.config import FineTuneConfig, PretrainConfig
from lab.forecast.bare import bare, bare_finetuning
from lab.forecast.child import Child

if TYPE_CHECKING:
    from lab.finetuning.batches import Extent
    from lab.forecast.answers import Answer, Target
    from lab.forecast.budget import Budget

TARGETS: "dict[Target, str]" = {"here": "This computer", "16 GB": "A GPU with 16 GB"}

AT_ONCE_S = 0.3
"""What was replayed before is there in some milliseconds: then the page is drawn with it, and not a second time."""
LOOK_S = 0.02
"""While something is computed: how soon it is given up for what is wanted now."""
IDLE_S = 300.0
"""Unasked for so long, the process gives back its memory (0.3 GiB)."""
KEPT = 128
MOST_TABS = 8


@dataclass(frozen=True)
class Look:
    """What a tab looks at."""

    config: PretrainConfig | FineTuneConfig
    """Without all that memory does not depend on."""
    device: str
    """As the form says: auto, cpu, cuda or mps."""
    target: "Target"
    extent: "Extent | None" = None
    """Of the rows of a fine-tuning."""


class Forecasts:
    """Answers in the background. Beside a training only the need comes at once, and the rest slowly.

    Args:
        is_training: whether a training needs this machine's cores now.
    """

    def __init__(self, is_training: Callable[[], bool]) -> None:
        self._is_training = is_training
        self._change = threading.Condition()
        self._wanted: OrderedDict[str, tuple[Look, bool]] = OrderedDict()
        self._answers: OrderedDict[Look, Answer] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_ready = False
        """The process has said something: it will answer soon."""

    def close(self, patience_s: float = 60.0) -> None:
        """End the process, in the middle of an answer."""
        atexit.unregister(self.close)
        with self._change:
            self._is_closed = True
            self._change.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(patience_s)

    def ask(self, tab: str, look: Look, *, in_full: bool = True) -> "Answer | None":
        """What is known; asks for the rest.

        Args:
            in_full: not only what is needed, also what would fit instead.
        """
        with self._change:
            is_new = tab not in self._wanted or self._wanted[tab][0] != look
            self._wanted[tab] = look, in_full
            self._wanted.move_to_end(tab)
            while len(self._wanted) > MOST_TABS:
                self._wanted.popitem(last=False)
            answer = self._answers.get(look)
            if self._lacks(look, in_full):
                if self._thread is None and not self._is_closed:
                    self._start(Child)
                self._change.notify_all()
            if answer is None and is_new and self._is_ready:
                self._change.wait_for(lambda: look in self._answers, AT_ONCE_S)
                answer = self._answers.get(look)
        return answer

    def prepare(self) -> None:
        """Start the process, unless something trains, and load what a fine-tuning needs before it is asked about."""
        with self._change:
            if self._thread is None and not self._is_closed and not self._is_training():
                self._start(self._prepared)

    # -- the thread -------------------------------------------------------------------------------------

    def _start(self, start_child: Callable[[], Child]) -> None:
        self._thread = threading.Thread(target=self._work, args=(start_child,), name="forecasts", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @staticmethod
    def _prepared() -> Child:
        child = Child()
        child.prepare()
        return child

    def _work(self, start_child: Callable[[], Child]) -> None:
        child = None
        try:
            child = start_child()
            has_cuda = child.has_cuda()
            while (look := self._next()) is not None:
                self._is_ready = True
                self._answer(child, look, has_cuda)
        except Exception as error:  # the edge of this thread: told on the page, or it would start again at each look
            self._say_it_ended(error)
        finally:
            if child is not None:
                child.close()
            with self._change:
                self._is_ready = False
                self._thread = None

    def _next(self) -> Look | None:
        """What to compute next; None when it is time to end."""
        with self._change:
            self._change.wait_for(lambda: self._is_closed or self._open() is not None, IDLE_S)
            return None if self._is_closed else self._open()

    def _open(self) -> Look | None:
        return next((look for look, in_full in reversed(self._wanted.values()) if self._lacks(look, in_full)), None)

    def _lacks(self, look: Look, in_full: bool) -> bool:
        answer = self._answers.get(look)
        return answer is None or (in_full and not answer.is_done)

    def _answer(self, child: Child, look: Look, has_cuda: bool) -> None:
        """Part by part, and no further when nobody looks any more; then ahead, until there is something to answer."""
        from lab.forecast.answers import Question

        question = Question(look.config, look.target, _budgets(look.device, has_cuda), look.extent)
        training = self._is_training()
        child.ask(question, beside_training=training)
        is_done = False
        while not child.is_idle and (self._is_idle() if is_done else self._is_wanted(look)):
            if self._is_training() != training:
                break  # asked again, the other way
            answer = child.listen(LOOK_S)
            if answer is not None:
                self._put(look, answer)
                is_done = answer.is_done
        child.give_up()

    def _is_wanted(self, look: Look) -> bool:
        with self._change:
            lacking = (one for one, in_full in self._wanted.values() if self._lacks(one, in_full))
            return not self._is_closed and look in lacking

    def _is_idle(self) -> bool:
        with self._change:
            return not self._is_closed and self._open() is None

    def _put(self, look: Look, answer: "Answer") -> None:
        with self._change:
            self._answers[look] = answer
            self._answers.move_to_end(look)
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)
            self._change.notify_all()

    def _say_it_ended(self, error: Exception) -> None:
        from lab.forecast.answers import Answer

        why = f" ({error})" if str(error) else ": the system may have needed its memory"
        said = f"The process that computes memory forecasts has ended{why}. Change a setting to try again."
        while (look := self._open()) is not None:
            self._put(look, Answer({}, error=said))


def _budgets(device: str, has_cuda: bool) -> "dict[Target, Budget]":
    from lab.forecast.budget import gpu_budget, this_device

    here = this_device("cuda" if has_cuda and device in ("auto", "cuda") else "cpu")
    return {"here": here, "16 GB": gpu_budget(16.0)}


@st.cache_resource(show_spinner=False)
def get_forecasts() -> Forecasts:
    """One for all tabs."""
    # Asked for here and not in the thread: a thread that outlives the engine by a moment must not start another one.
    engine = get_engine()
    return Forecasts(lambda: engine.is_training)


def look_at(config: PretrainConfig, target: "Target") -> Look:
    return Look(bare(config), config.compute.device, target)


def look_at_finetuning(config: FineTuneConfig, extent: "Extent | None") -> Look:
    return Look(bare_finetuning(config), config.compute.device, "here", extent)
