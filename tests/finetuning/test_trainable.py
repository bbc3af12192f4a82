"""The size of an adapter before anything is loaded, against the adapter itself."""

from pathlib import Path
from typing import Any

import pytest

from lab.finetuning.adapter import attach
from lab.finetuning.base import find_base, load_base
from lab.finetuning.trainable import adapted_layers, trainable_weights
from tests.finetuning.helpers import CPU, config_for, tiny_folder


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "phi"])
@pytest.mark.parametrize("changes", [{}, {"target_modules": "attention"}, {"target_modules": "mlp"}, {"dora": True}])
def test_the_count_from_the_files_headers_is_what_peft_trains(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = config_for(tiny_folder(tmp_path, family), **changes)
    base = find_base(config.model.model)
    model, targets = attach(load_base(base, config, "fp32", CPU), config.model, 1, address=base.address)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable_weights(config) == trained
    layers = adapted_layers(config)
    assert layers is not None
    assert len(layers) == len(targets.names)


def test_with_all_weights_training_there_is_no_adapter(tmp_path: Path) -> None:
    assert trainable_weights(config_for(tiny_folder(tmp_path), method="full")) is None


def test_a_model_that_is_not_here_has_no_count() -> None:
    assert trainable_weights(config_for("someone/nothing")) is None
