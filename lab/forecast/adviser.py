"""What the forecast has to say to a run: before it starts, and when it ran out of memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lab.config import PretrainConfig, RunConfig
from lab.forecast.budget import CUDA_CONTEXT, free_memory, reserved_on_top, this_device
from lab.forecast.fit import out_of_memory_advice
from lab.forecast.memory import device_of, forecast, peak_bytes
from lab.forecast.tracked import TrackedStep, documents, tracked
from lab.training.memory import Change, Foreseen, TooLargeError, gib
from lab.training.trainer import Trainer

PROVEN_TOO_MUCH = 0.95
"""Of the forecast need: a run that did not get this much is not advised to ask for it again."""


class MemoryAdviser:
    """For `train_run`: see `lab.training.memory.Adviser`."""

    def foresee(self, config: RunConfig) -> Foreseen:
        """The need of a run, and whether this machine has it.

        Raises:
            TooLargeError: on a CPU, when not even swapping would make room: the system would end the whole process, the
                app too. A GPU's own error can be caught, so there it is tried.
        """
        assert isinstance(config, PretrainConfig), "see lab.jobs"
        device = device_of(config)
        found = forecast(config, device)
        need = found.peak_bytes + found.checkpoint_bytes
        step = max(found.phases[phase].bytes for phase in ("forward", "backward", "update"))
        foreseen = Foreseen(need, step_bytes=step, curve=documents(found.curve))
        if device == "cpu":
            free, most = free_memory()
            if need > most:
                raise TooLargeError(
                    f"the run needs about {gib(need)}, and this computer has no more than {gib(most)} left to give.",
                    most,
                )
        else:
            import torch

            foreseen = replace(foreseen, step_bytes=None, reserved_bytes=need + reserved_on_top(found.modelled))
            total = this_device(device).total_bytes
            free = torch.cuda.mem_get_info()[0] if torch.cuda.is_initialized() else total - CUDA_CONTEXT
        if need <= free:
            return foreseen
        said = f"This run needs about {gib(need)} at its peak, and {gib(free)} are free now: {_risk(device)}"
        return replace(foreseen, warning=said)

    @contextmanager
    def follow(self, trainer: Trainer) -> Iterator[TrackedStep]:
        """On a CPU each tensor of the step; on a GPU its allocator counts for the whole run."""
        if trainer.task.device.type != "cpu":
            yield TrackedStep()
            return
        with tracked(trainer) as step:
            yield step

    def out_of_memory(self, config: RunConfig, limit_bytes: int) -> Sequence[Change]:
        assert isinstance(config, PretrainConfig), "see lab.jobs"
        device = device_of(config)
        limit = min(limit_bytes, round(PROVEN_TOO_MUCH * peak_bytes(config, device)))
        options = out_of_memory_advice(config, device, limit)
        return [Change(option.changes, option.sentence) for option in options]


def _risk(device: str) -> str:
    if device == "cuda":
        return "it may run out of memory; close what else uses the GPU."
    return "the computer may become slow or end the process; close other programs, or take a smaller batch."
