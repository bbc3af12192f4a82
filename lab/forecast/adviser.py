"""What the forecast has to say to a run: before it starts, and when it ran out of memory."""

from collections.abc import Sequence

import psutil

from lab.config import PretrainConfig, RunConfig
from lab.errors import TrainingError
from lab.forecast.budget import CUDA_CONTEXT, this_device
from lab.forecast.fit import out_of_memory_advice
from lab.forecast.memory import device_of, forecast, peak_bytes
from lab.training.memory import Change, Foreseen, gib

PROVEN_TOO_MUCH = 0.95
"""Of the forecast need: a run that did not get this much is not advised to ask for it again."""


class MemoryAdviser:
    """For `train_run`: see `lab.training.memory.Adviser`."""

    def foresee(self, config: RunConfig) -> Foreseen:
        """The need of a run, and whether this machine has it.

        Raises:
            TrainingError: on a CPU, when the need exceeds all of the machine's memory: the system would end the whole
                process, the app too. A GPU's own error can be caught, so there it is tried.
        """
        assert isinstance(config, PretrainConfig), "see lab.jobs"
        device = device_of(config)
        found = forecast(config, device)
        need = found.peak_bytes + found.checkpoint_bytes
        total = this_device(device).total_bytes
        if device == "cpu":
            if need > total:
                raise TrainingError(
                    f"This run needs about {gib(need)} for its step, and this computer has {gib(total)} in all, so it "
                    "was not started; take a smaller batch or model, or turn on gradient checkpointing."
                )
            free = min(psutil.virtual_memory().available, total)
        else:
            import torch

            free = torch.cuda.mem_get_info()[0] if torch.cuda.is_initialized() else total - CUDA_CONTEXT
        if need <= free:
            return Foreseen(need)
        return Foreseen(
            need, f"This run needs about {gib(need)} at its peak, and {gib(free)} are free now: {_risk(device)}"
        )

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
