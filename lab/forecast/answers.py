"""What a page asks of a memory forecast, and the answer: part by part, the quickest first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from lab.config import FineTuneConfig, PretrainConfig, changed
from lab.finetuning.batches import Extent
from lab.forecast.ahead import warm, warm_finetuning
from lab.forecast.budget import Budget, Verdict
from lab.forecast.finetune_config import FineTuneNeed, finetune_need, what_fits
from lab.forecast.fit import FitOption, Saving, fit, largest, savings
from lab.forecast.memory import MemoryForecast, forecast, peak_bytes
from lab.forecast.patience import GivenUpError, without_replays
from lab.training.memory import Change

Target = Literal["here", "16 GB"]
MOST = {"batch_size": 4_096, "context_length": 8_192}
"""Nobody looks for more; each doubling of the context is another replay."""


@dataclass(frozen=True)
class Question:
    """What somebody looks at: a config without all that memory does not depend on, and what it is to fit into."""

    config: PretrainConfig | FineTuneConfig
    target: Target
    """Which budget the savings and suggestions are for."""
    budgets: Mapping[Target, Budget]
    extent: Extent | None = None
    """Of the rows of a fine-tuning; None where they are not known."""


@dataclass(frozen=True)
class Side:
    """The forecast for one device, and whether it fits."""

    forecast: MemoryForecast | FineTuneNeed
    verdict: Verdict


@dataclass(frozen=True)
class Answer:
    """What is known so far; the parts come one after the other."""

    sides: dict[Target, Side]
    savings: Sequence[Saving] | None = None
    options: Sequence[FitOption] | None = None
    """Of a pretraining; those for a fine-tuning stand in `changes`."""
    changes: Mapping[Target, Sequence[Change]] | None = None
    """What would make a fine-tuning fit where it does not."""
    largest: dict[str, int | None] | None = None
    """Knob -> the largest value that fits."""
    error: str = ""

    @property
    def is_done(self) -> bool:
        if self.error or self.changes is not None:
            return True
        return self.largest is not None and self.largest.keys() == MOST.keys()


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
    if isinstance(question.config, FineTuneConfig):
        yield replace(answer, changes={name: _changes(question, name, side) for name, side in sides.items()})
        return
    found, budget = sides[question.target].forecast, question.budgets[question.target]
    assert isinstance(found, MemoryForecast)
    config = found.config
    yield (answer := replace(answer, savings=savings(config, budget.device)))
    yield (answer := replace(answer, options=fit(config, budget)))
    batch = largest(config, "batch_size", budget, most=MOST["batch_size"])
    yield (answer := replace(answer, largest={"batch_size": batch}))
    yield replace(answer, largest={"batch_size": batch, "context_length": longest_context(config, budget)})


def look_ahead(question: Question, stop: Callable[[], bool]) -> None:
    """Replay what is one knob away, for the devices asked about, the target's first."""
    devices = list({question.budgets[name].device: None for name in (question.target, *question.budgets)})
    if isinstance(question.config, FineTuneConfig):
        warm_finetuning(question.config, question.extent, devices, stop)
    else:
        warm(question.config, devices, stop)


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
        found: MemoryForecast | FineTuneNeed
        if isinstance(question.config, FineTuneConfig):
            found = finetune_need(question.config, budget.device, question.extent)
        else:
            found = forecast(question.config, budget.device)
        sides[name] = Side(found, found.verdict(budget))
    return sides


def _changes(question: Question, name: Target, side: Side) -> Sequence[Change]:
    if side.verdict.fits:
        return ()
    assert isinstance(question.config, FineTuneConfig)
    budget = question.budgets[name]
    return what_fits(question.config, budget.device, question.extent, budget.limit_bytes)
