"""What a page asks of a memory forecast, and the answer: part by part, the quickest first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from lab.config import PretrainConfig, changed
from lab.forecast.ahead import warm
from lab.forecast.budget import Budget, Verdict
from lab.forecast.fit import FitOption, Saving, fit, largest, savings
from lab.forecast.lookup import GivenUpError, without_replays
from lab.forecast.memory import MemoryForecast, forecast, peak_bytes

Target = Literal["here", "16 GB"]
MOST = {"batch_size": 4_096, "context_length": 8_192}
"""Nobody looks for more; each doubling of the context is another replay."""


@dataclass(frozen=True)
class Question:
    """What somebody looks at: a config without all that memory does not depend on, and what it is to fit into."""

    config: PretrainConfig
    target: Target
    """Which budget the savings and suggestions are for."""
    budgets: Mapping[Target, Budget]


@dataclass(frozen=True)
class Side:
    """The forecast for one device, and whether it fits."""

    forecast: MemoryForecast
    verdict: Verdict


@dataclass(frozen=True)
class Answer:
    """What is known so far; the parts come one after the other."""

    sides: dict[Target, Side]
    savings: Sequence[Saving] | None = None
    options: Sequence[FitOption] | None = None
    largest: dict[str, int | None] | None = None
    """Knob -> the largest value that fits."""
    error: str = ""

    @property
    def is_done(self) -> bool:
        return bool(self.error) or (self.largest is not None and self.largest.keys() == MOST.keys())


def answers(question: Question) -> Iterator[Answer]:
    """The answer, each time with one more part.

    Raises:
        LabError: there is no such run.
        GivenUpError: nobody waits for it any more (`lookup.giving_up_when`).
    """
    if (quick := _at_once(question)) is not None:
        yield Answer(quick)
    sides = _sides(question)
    yield (answer := Answer(sides))
    config, budget = sides[question.target].forecast.config, question.budgets[question.target]
    yield (answer := replace(answer, savings=savings(config, budget.device)))
    yield (answer := replace(answer, options=fit(config, budget)))
    batch = largest(config, "batch_size", budget, most=MOST["batch_size"])
    yield (answer := replace(answer, largest={"batch_size": batch}))
    yield replace(answer, largest={"batch_size": batch, "context_length": longest_context(config, budget)})


def look_ahead(question: Question, stop: Callable[[], bool]) -> None:
    """Replay what is one knob away, for the devices asked about, the target's first."""
    devices = {question.budgets[name].device: None for name in (question.target, *question.budgets)}
    warm(question.config, list(devices), stop)


def longest_context(config: PretrainConfig, budget: Budget) -> int | None:
    """The longest context that fits, by doubling or halving the present one: each try is a replay of its own."""

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


def _at_once(question: Question) -> dict[Target, Side] | None:
    """From what was replayed before, if that is enough: some milliseconds."""
    with suppress(GivenUpError), without_replays():
        return _sides(question)
    return None


def _sides(question: Question) -> dict[Target, Side]:
    sides = {}
    for name, budget in question.budgets.items():
        found = forecast(question.config, budget.device)
        sides[name] = Side(found, found.verdict(budget))
    return sides
