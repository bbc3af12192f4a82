"""The process that trains in *fast* mode: `python -m lab.finetuning.fast_worker RUN`, in Unsloth's environment.

Everything but loading the model and putting the adapter on it is the compatible mode's own code. It has not yet run on
a GPU.
"""

import sys
from importlib import import_module
from typing import Any, Literal

from torch import nn

from lab.config import FineTuneConfig
from lab.errors import ConfigError
from lab.finetuning import fast
from lab.finetuning.adapter import NAME, Targets, first_weights, targets
from lab.finetuning.job import FineTuneJob
from lab.rundir import find_run
from lab.store.recorder import SegmentRecorder
from lab.training.precision import Precision
from lab.training.run import train_run


class FastFineTuneJob(FineTuneJob):
    """A fine-tuning whose model is Unsloth's."""

    mode: Literal["compatible", "fast"] = "fast"

    def load(self, config: FineTuneConfig, precision: Precision) -> nn.Module:
        """
        Raises:
            ConfigError: something that Unsloth cannot do.
        """
        if self.device.type != "cuda":
            raise ConfigError([f"fast mode needs an NVIDIA GPU, and this run computes on {self.device.type}."])
        if self.base.run is not None or not config.has_adapter or config.model.dora:
            raise ConfigError(
                ["fast mode knows lora, lora_8bit and qlora beside other people's models; choose compatible."]
            )
        unsloth: Any = import_module("unsloth")
        model, _ = unsloth.FastLanguageModel.from_pretrained(
            model_name=str(self.base.folder),
            max_seq_length=config.data.max_length,
            dtype=precision.dtype,
            load_in_4bit=config.model.method == "qlora",
            load_in_8bit=config.model.method == "lora_8bit",
        )
        return model

    def adapt(self, model: nn.Module, config: FineTuneConfig) -> tuple[nn.Module, Targets]:
        unsloth: Any = import_module("unsloth")
        found = targets(model, config.model.target_modules)
        adapted = unsloth.FastLanguageModel.get_peft_model(
            model,
            r=config.model.rank,
            lora_alpha=config.model.alpha,
            lora_dropout=config.model.lora_dropout,
            use_rslora=config.model.rslora,
            target_modules=sorted({ending.rpartition(".")[2] for ending in found.endings}),
            use_gradient_checkpointing="unsloth" if config.compute.gradient_checkpointing else False,
            random_state=config.train.seed,
        )
        adapted.peft_config[NAME].base_model_name_or_path = self.base.address
        first_weights(adapted, config.train.seed)
        return adapted, found


def main() -> int:
    """Train the named run; 0 when it ended as it should."""
    run = find_run(sys.argv[1])
    if fast.is_here():
        import_module("unsloth")  # first: it patches what is loaded after it
    recorder = SegmentRecorder(run)
    outcome = train_run(run, recorder, None, None, FastFineTuneJob)
    recorder.close()
    return 0 if outcome.status != "failed" else 1


if __name__ == "__main__":
    sys.exit(main())
