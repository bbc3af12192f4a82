"""A pretraining run, from its folder to what the trainer is given."""

from typing import Any, Literal

import torch

from lab.config import PretrainConfig, changed
from lab.data.batches import TextData, WindowBatches, prepare_text
from lab.data.tokenizers import load_tokenizer
from lab.files import read_json, write_json
from lab.rundir import RunDir
from lab.training import machine
from lab.training.attention_kernel import attention_kernel
from lab.training.contracts import Probe, Say
from lab.training.head_watch import HeadWatch, repeated_tokens
from lab.training.optimizer import has_fused
from lab.training.precision import DTYPES, Precision, PrecisionName
from lab.training.pretraining import PretrainTask


class PretrainJob:
    """Reads the text when it is made; `build` makes the model and decides what `auto` means here."""

    def __init__(self, run: RunDir, device: torch.device, say: Say):
        self.run, self.device, self.say = run, device, say
        config = run.config_as(PretrainConfig)
        self.data = self._data(config)
        self.config = changed(config, vocab_size=self.data.tokenizer.vocab_size)

    def build(self) -> None:
        config = self.config
        self.task = PretrainTask(config, self.data, self.device)
        self.batches = WindowBatches(
            self.data.train,
            context_length=config.model.context_length,
            stride=config.stride,
            batch_size=config.train.batch_size,
            grad_accum_steps=config.train.grad_accum_steps,
            seed=config.train.seed,
        )
        self.config = self._resolve(config)
        self.task.precision = Precision(_named(self.config), self.device)
        self.identity = _data_identity(self.config, self.data)
        self.probes = _probes(self.config, self.device)
        self.n_params = sum(parameter.numel() for parameter in self.task.model.parameters())

    def started(self, step: int) -> str:
        start = f"from step {step:,}" if step else "from first, random weights"
        return f"Training {self.n_params:,} parameters on {self.data.corpus.title}, {start}."

    @property
    def data_changed(self) -> str:
        return (
            f"The text of corpus {self.config.data.corpus} has changed since this run began, so it cannot go on as the "
            "same run; fork it to train on the new text."
        )

    def finish(self) -> None:
        """Nothing beside the checkpoint."""

    def _data(self, config: PretrainConfig) -> TextData:
        path = self.run.tokenizer_path
        if path.exists():
            return prepare_text(config, load_tokenizer(read_json(path)))
        data = prepare_text(config)
        write_json(path, data.tokenizer.to_json())
        return data

    def _resolve(self, config: PretrainConfig) -> PretrainConfig:
        """Decide what `auto` means here, say so, and store it: a resumed run keeps it."""
        compute, task, batches, device = config.compute, self.task, self.batches, self.device
        place, micro_batch = batches.state(), batches.next_step()[0]
        batches.load_state(place)

        def one_step(precision: Precision) -> None:
            task.precision = precision
            (task.loss_sum(micro_batch) / micro_batch.n_labels).backward()
            task.model.zero_grad(set_to_none=True)

        precisions: list[PrecisionName] = (
            machine.available_precisions(device) if compute.precision == "auto" else [_named(config)]
        )
        threads = [compute.threads] if compute.threads else machine.thread_candidates()
        was_open = "auto" in (compute.precision, compute.device) or compute.threads is None
        choice = machine.choose_compute(precisions, threads, device, config.model, one_step)
        config = changed(config, device=device.type, precision=choice.precision, threads=choice.threads)
        dtype = DTYPES[choice.precision]
        kernel, why = attention_kernel(config.model, config.compute, config.train.batch_size, device, dtype)
        if was_open:
            self.say("info", "decision", f"Computing in {choice.reason}.")
        self.say("info", "decision", f"Attention kernel on {device.type}: {kernel}, because {why}.")
        self.resolved = {"kernel": kernel, "kernel_reason": why, "fused_optimizer": has_fused(task.model)}
        return config


def _probes(config: PretrainConfig, device: torch.device) -> list[Probe]:
    """What is looked at beside the loss at each evaluation."""
    ids = repeated_tokens(config.model.vocab_size, config.model.context_length, device)
    if ids is None:
        return []
    watch = HeadWatch(ids)
    return [watch.heads, watch.layers]


def _data_identity(config: PretrainConfig, data: TextData) -> dict[str, Any]:
    """What the place in the text means something for."""
    return {
        "text_sha256": data.text_sha256,
        "context_length": config.model.context_length,
        "stride": config.stride,
        "val_fraction": config.data.val_fraction,
        "seed": config.train.seed,
    }


def _named(config: PretrainConfig) -> Literal["fp32", "bf16", "fp16"]:
    assert config.compute.precision != "auto", "resolved before"
    return config.compute.precision
