"""Memory forecasts for the page, computed off its thread: PyTorch takes seconds to load, and a replay some more.

One thread for all tabs. A tab says what it looks at now; what it looked at before is dropped between two replays.
"""

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import streamlit as st

from app.ui.state import get_engine
from lab.config import PretrainConfig, changed
from lab.errors import LabError
from lab.forecast.bare import bare

if TYPE_CHECKING:
    from lab.forecast.budget import Budget, Verdict
    from lab.forecast.fit import FitOption, Saving
    from lab.forecast.memory import MemoryForecast

Target = Literal["here", "16 GB"]
TARGETS: dict[Target, str] = {"here": "This computer", "16 GB": "A GPU with 16 GB"}

FIRST_PAUSE_S = 1.0
"""Before PyTorch is loaded: the page is to be painted first."""
PAUSE_S = 0.15
"""After a knob moved: the next move may follow at once."""
KEPT = 128
MOST = {"batch_size": 4_096, "context_length": 8_192}
"""Nobody looks for more; each doubling of the context is another replay."""
MOST_TABS = 8


@dataclass(frozen=True)
class Question:
    """What a tab looks at: a config without all that memory does not depend on, and the device to fit into."""

    config: PretrainConfig
    device: str
    """As the form says: auto, cpu, cuda or mps."""
    target: Target


@dataclass(frozen=True)
class Side:
    """The forecast for one device, and whether it fits."""

    forecast: "MemoryForecast"
    verdict: "Verdict"


@dataclass(frozen=True)
class Answer:
    """What is known so far; the parts come one after the other."""

    sides: dict[Target, Side]
    savings: Sequence["Saving"] | None = None
    options: Sequence["FitOption"] | None = None
    largest: dict[str, int | None] | None = None
    """Knob -> the largest value that fits."""
    error: str = ""

    @property
    def is_done(self) -> bool:
        return bool(self.error) or (self.largest is not None and self.largest.keys() == MOST.keys())


class Forecasts:
    """Answers questions in the background.

    Args:
        may_warm: whether there is time to replay what is one knob away, too.
    """

    def __init__(self, may_warm: Callable[[], bool] = lambda: False) -> None:
        self._may_warm = may_warm
        self._change = threading.Condition()
        self._wanted: OrderedDict[str, Question] = OrderedDict()
        self._answers: OrderedDict[Question, Answer] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_ready = False
        """PyTorch is loaded."""

    def close(self, patience_s: float = 60.0) -> None:
        """End the thread: at its next look, in the middle of an answer."""
        atexit.unregister(self.close)
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(patience_s)

    def ask(self, tab: str, question: Question) -> Answer | None:
        """What is known; asks for the rest."""
        with self._change:
            self._wanted[tab] = question
            self._wanted.move_to_end(tab)
            while len(self._wanted) > MOST_TABS:
                self._wanted.popitem(last=False)
            answer = self._answers.get(question)
            if answer is None or not answer.is_done:
                if self._thread is None and not self._is_closed:
                    self._thread = threading.Thread(target=self._work, name="forecasts", daemon=True)
                    self._thread.start()
                    atexit.register(self.close)  # a thread in the middle of a replay would outlive DuckDB's own end
                self._change.notify_all()
        if answer is None and self._is_ready:
            answer = self._at_once(question)
        return answer

    def _at_once(self, question: Question) -> Answer | None:
        """The forecast, where what it is put together from was replayed before: some milliseconds."""
        from lab.forecast.lookup import GivenUpError, without_replays

        try:
            with without_replays():
                answer = Answer(self._sides(question))
        except (GivenUpError, LabError):  # the thread will say it
            return None
        with self._change:
            return self._answers.setdefault(question, answer)

    # -- the thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        time.sleep(FIRST_PAUSE_S)
        from lab.forecast.lookup import GivenUpError  # PyTorch is loaded here

        self._is_ready = True
        while True:
            with self._change:
                while not self._is_closed and (question := self._open()) is None:
                    self._change.wait()
                if self._is_closed:
                    return
            assert question is not None
            time.sleep(PAUSE_S)
            if not self._is_wanted(question):
                continue
            try:
                self._answer(question)
            except GivenUpError:
                continue
            except LabError as error:
                self._put(question, Answer({}, error=str(error)))
            except Exception as error:  # the edge of this thread, which has to outlive one bad config
                self._put(question, Answer({}, error=f"The forecast broke off: {type(error).__name__}: {error}"))

    def _open(self) -> Question | None:
        for question in reversed(self._wanted.values()):
            answer = self._answers.get(question)
            if answer is None or not answer.is_done:
                return question
        return None

    def _is_wanted(self, question: Question) -> bool:
        with self._change:
            return not self._is_closed and question in self._wanted.values()

    def _put(self, question: Question, answer: Answer) -> None:
        with self._change:
            self._answers[question] = answer
            self._answers.move_to_end(question)
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)

    def _answer(self, question: Question) -> None:
        """Part by part, and no further when nobody looks any more."""
        from lab.forecast.ahead import warm
        from lab.forecast.fit import fit, largest, savings
        from lab.forecast.lookup import giving_up_when

        def nobody_waits() -> bool:
            return not self._is_wanted(question)

        with giving_up_when(nobody_waits):
            answer = Answer(self._sides(question))
            self._put(question, answer)
            side = answer.sides[question.target]
            config, budget = side.forecast.config, side.verdict.budget
            answer = replace(answer, savings=savings(config, budget.device))
            self._put(question, answer)
            answer = replace(answer, options=fit(config, budget))
            self._put(question, answer)
            batch = largest(config, "batch_size", budget, most=MOST["batch_size"])
            self._put(question, replace(answer, largest={"batch_size": batch}))
            context = self._longest(config, budget)
            self._put(question, replace(answer, largest={"batch_size": batch, "context_length": context}))
            if self._may_warm():
                devices = {answer.sides[target].forecast.device: None for target in (question.target, *TARGETS)}
                warm(config, list(devices), nobody_waits)

    def _longest(self, config: PretrainConfig, budget: "Budget") -> int | None:
        """The longest context that fits, by doubling or halving the present one: each try is a replay of its own."""
        from lab.forecast.memory import peak_bytes

        def fits(context: int) -> bool:
            return peak_bytes(changed(config, context_length=context, stride=None), budget.device) <= budget.limit_bytes

        context = config.model.context_length
        while context > 2 and not fits(context):
            context //= 2
        if not fits(context):
            return None
        if context == config.model.context_length:
            while 2 * context <= MOST["context_length"] and fits(2 * context):
                context *= 2
        return context

    def _sides(self, question: Question) -> dict[Target, Side]:
        import torch

        from lab.forecast.budget import gpu_budget, this_device
        from lab.forecast.memory import forecast
        from lab.forecast.rules import Device

        has_cuda = torch.cuda.is_available()
        here: Device = "cuda" if has_cuda and question.device in ("auto", "cuda") else "cpu"
        one, other = forecast(question.config, here), forecast(question.config, "cuda")
        return {
            "here": Side(one, one.verdict(this_device(here))),
            "16 GB": Side(other, other.verdict(gpu_budget(16.0))),
        }


@st.cache_resource(show_spinner=False)
def get_forecasts() -> Forecasts:
    """One for all tabs."""
    # Asked for here and not in the thread: a thread that outlives the engine by a moment must not start another one.
    engine = get_engine()
    return Forecasts(may_warm=lambda: not engine.is_training)


def question_of(config: PretrainConfig, target: Target) -> Question:
    return Question(bare(config), config.compute.device, target)
