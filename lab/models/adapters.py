"""Adapters on disk, as PEFT writes them: what they were trained on. Nothing is loaded."""

from pathlib import Path
from typing import Literal

from lab.config import FineTuneConfig
from lab.errors import ModelError
from lab.files import read_json
from lab.models.shapes import Precision
from lab.rundir import RunDir

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter_folder(text: str) -> bool:
    """Whether a folder of this name holds an adapter."""
    return (Path(text).expanduser() / ADAPTER_CONFIG).is_file()


def base_of_folder(text: str) -> str:
    """What opens the model that an adapter folder was trained on.

    Raises:
        ModelError: the folder does not say.
    """
    folder = Path(text).expanduser().resolve()
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder} does not say which model it was trained on (base_model_name_or_path): add it.")
    return str(base)


def base_of_run(run: RunDir) -> str | None:
    """What opens the model that a fine-tuning run began with; None for a run that began with nothing."""
    config = run.config()
    return config.model.model if isinstance(config, FineTuneConfig) else None


def precision_of_run(run: RunDir) -> Precision | Literal["auto"]:
    """In which precision a fine-tuning run is what it was in training: an adapter that learnt beside weights of 4 bits
    made up for their errors, and beside the original weights it says something else."""
    config = run.config()
    if not isinstance(config, FineTuneConfig):
        return "auto"
    trained: dict[str, Precision] = {"qlora": "4bit", "lora_8bit": "8bit"}
    return trained.get(config.model.method, "auto")
