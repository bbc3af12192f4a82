"""How long a run will take, roughly: arithmetic divided by the machine's measured speed."""

from dataclasses import dataclass

from lab.config import PretrainConfig
from lab.models.parts import training_flops_per_token

USUAL_MFU = {"cpu": (0.10, 0.30, 0.55), "cuda": (0.15, 0.35, 0.55)}
"""Share of the peak that training reaches: low, usual, high. Small models and small batches stay low."""


@dataclass(frozen=True)
class TimeForecast:
    """Seconds of training, without evaluations; None where the run is given in minutes or the steps are not known."""

    steps: int | None
    seconds: float | None
    low_s: float | None
    high_s: float | None


def time_forecast(config: PretrainConfig, device: str, matmul_peak: float, steps: int | None) -> TimeForecast:
    """The time of `steps` optimizer steps.

    Args:
        matmul_peak: floating point operations per second of a large matrix product on the device.
    """
    if config.train.max_minutes is not None:
        seconds = config.train.max_minutes * 60
        return TimeForecast(None, seconds, seconds, seconds)
    if steps is None:
        return TimeForecast(None, None, None, None)
    work: float = training_flops_per_token(config.model) * config.tokens_per_step * steps
    if config.compute.gradient_checkpointing:
        work = work * 4 / 3  # the forward pass, a third of a step, is done twice
    slow, usual, fast = USUAL_MFU[device]
    return TimeForecast(steps, work / (matmul_peak * usual), work / (matmul_peak * fast), work / (matmul_peak * slow))
