"""The forecast against what a GPU was measured to need. The figures are made by `python -m benchmarks.gpu.memory`."""

import json
import statistics
from typing import Any

import pytest

from benchmarks.gpu.memory import RESULT, adapter_config
from lab.config import build_pretrain
from lab.forecast.budget import CUBLAS_WORKSPACE, gpu_budget
from lab.forecast.memory import step_timeline


@pytest.mark.filterwarnings("ignore")
def test_forecasts_are_within_5_percent_of_a_gpus_figures_and_none_wrongly_fits_16_gb() -> None:
    if not RESULT.exists():
        pytest.skip(f"no GPU has been measured yet: benchmarks/results/{RESULT.name} is missing")
    figures = [figure for figure in json.loads(RESULT.read_text())["figures"] if figure["allocated"]]
    assert len(figures) >= 30
    errors = {}
    for figure in figures:
        need = _forecast(figure) + CUBLAS_WORKSPACE
        errors[json.dumps({key: figure[key] for key in figure if key != "shape"})] = need / figure["allocated"] - 1
        limit = gpu_budget(16).limit_bytes
        assert not (need <= limit < figure["allocated"]), figure
    assert statistics.median(map(abs, errors.values())) <= 0.02
    assert max(map(abs, errors.values())) <= 0.05, max(errors.items(), key=lambda item: abs(item[1]))


def _forecast(figure: dict[str, Any]) -> int:
    if figure["kind"] == "pretrain":
        return step_timeline(build_pretrain(figure["config"]), "cuda").peak_bytes
    transformers = pytest.importorskip("transformers")
    from lab.forecast import finetune
    from lab.forecast.unfilled import HFShape

    name, shape = figure["shape"]
    extent = finetune.all_learnt(figure["training"]["length"])
    config = adapter_config(figure["training"])
    return finetune.step_timeline(HFShape.of(getattr(transformers, name)(**shape)), config, extent, "cuda").peak_bytes
