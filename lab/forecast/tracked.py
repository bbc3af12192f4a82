"""The same count on a real step: what a run's first step really held, to be laid over what the replay said of it.

On a CPU nothing else tells. Resident memory is that of a whole process, which keeps what it once had and rounds it up;
for a small run it says little. The tracker sees each tensor of the step, and those of no other thread.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from lab.forecast.memory import CurvePoint, curve_of
from lab.forecast.replay import mark_state
from lab.forecast.rules import CPU
from lab.forecast.storages import Storage, StorageTracker
from lab.forecast.timeline import Timeline, timeline
from lab.training.trainer import Trainer


class TrackedStep:
    """One real step; without figures until it has been taken."""

    timeline: Timeline | None = None

    @property
    def peak_bytes(self) -> int | None:
        """Most bytes of tensors at one time."""
        return None if self.timeline is None else self.timeline.peak_bytes

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        return () if self.timeline is None else curve_of(self.timeline)

    @property
    def curve(self) -> list[Mapping[str, Any]]:
        """As it is kept with the run: see `lab.training.memory.Followed`."""
        return documents(self.points)


class RealTracker(StorageTracker):
    """Follows the storages of real tensors on a CPU: every operation is done, and none is changed."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _nested(args):
            self._pass_over(tensor)
        result = func(*args, **(kwargs or {}))
        self._follow(func, args, result)
        return result

    def _pass_over(self, tensor: Tensor) -> None:
        """What an operation is given though none has made it was there before: token ids where NumPy put them."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = Storage(0, 0, None, ())
            self._watch[key] = weakref.ref(storage, self._freed(key))


@contextmanager
def tracked(trainer: Trainer) -> Iterator[TrackedStep]:
    """Within this the trainer is to take one step; afterwards what is yielded knows what the step held.

    The state that a first update makes counts from the start, as in every later step and in the replay.
    """
    tracker, found = RealTracker(CPU), TrackedStep()
    task = cast(Any, trainer.task)
    model = task.model
    for tensor in (*model.parameters(), *model.buffers()):
        tracker.mark(tensor, "weights")
    for tensor in packed_state(model):
        tracker.mark(tensor, "quantisation_state")
    mark_state(trainer, tracker)
    # The rows of the output layer; it is never packed.
    vocabulary = max(len(parameter) for parameter in model.parameters() if parameter.is_floating_point())
    hooks = tracker.follow_modules(model, vocabulary)
    loss_sum = task.loss_sum

    def followed(batch: Any) -> Tensor:
        tracker.begin_forward(task.dropout_clock.micro_step)
        return cast(Tensor, loss_sum(batch))

    task.loss_sum = followed
    try:
        with tracker, tracker.during("forward"):
            yield found
        mark_state(trainer, tracker)
    finally:
        del task.loss_sum  # the method of its class again
        for hook in hooks:
            hook.remove()
    if any(place.phase == "update" for place in tracker.log.places):  # else it was stopped on the way
        found.timeline = timeline(tracker.log)


def packed_state(model: nn.Module) -> Iterator[Tensor]:
    """What turns a model's 4- or 8-bit weights back into numbers; it is neither parameter nor buffer."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        nested = getattr(weight, "quant_state", None)
        for holder in (weight, getattr(module, "state", None), nested, getattr(nested, "state2", None)):
            for name in ("SCB", "absmax", "code", "offset"):
                found = getattr(holder, name, None)
                if isinstance(found, Tensor):
                    yield found


def documents(points: Sequence[CurvePoint]) -> list[Mapping[str, Any]]:
    """A step's curve as JSON values."""
    return [
        {
            "phase": point.phase, "micro_batch": point.micro_batch, "layer": point.layer, "line": point.line,
            "kinds": {kind: size for kind, size in point.kinds.items() if size},
        }
        for point in points
    ]  # fmt: skip


def _nested(args: Any) -> Iterator[Tensor]:
    if isinstance(args, Tensor):
        yield args
    elif isinstance(args, (tuple, list)):
        for item in args:
            yield from _nested(item)
