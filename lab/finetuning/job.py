"""A fine-tuning run, from its folder to what the trainer is given."""

import hashlib
import json
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from lab.config import FineTuneConfig, changed
from lab.errors import ConfigError, TrainingError
from lab.finetuning import fast
from lab.finetuning.adapter import FOLDER, Targets, attach, write_adapter, write_adapter_config
from lab.finetuning.adapter_watch import AdapterWatch
from lab.finetuning.base import all_weights, context_of, find_base, load_base
from lab.finetuning.batches import Extent, RowBatches
from lab.finetuning.datasets import Prepared, prepare
from lab.finetuning.forgetting import Forgetting
from lab.finetuning.packing import check_packing
from lab.finetuning.task import FineTuneTask
from lab.models.gpt import GPTModel
from lab.rundir import RunDir
from lab.training import machine
from lab.training.contracts import Probe, Say
from lab.training.optimizer import has_fused
from lab.training.precision import Precision, PrecisionName


class FineTuneJob:
    """Reads the data when it is made; `build` loads the model and puts the adapter on it."""

    mode: Literal["compatible", "fast"] = "compatible"

    def __init__(self, run: RunDir, device: torch.device, say: Say):
        self.run, self.device, self.say = run, device, say
        config = run.config_as(FineTuneConfig)
        if config.model.mode != self.mode:
            fast.refuse()
        self.base = find_base(config.model.model)
        self.config = changed(config, model=self.base.ref)
        self.data = prepare(self.config, self.base.tokenizer)

    def build(self) -> None:
        self.config = config = self._resolve(self.config)
        precision = Precision(cast(PrecisionName, config.compute.precision), self.device)
        model = self.load(config, precision)
        self.n_params = all_weights(model)
        self._check_lengths(model)
        self.targets: Targets | None = None
        if config.has_adapter:
            model, self.targets = self.adapt(model, config)
            self._tell_targets(self.targets)
        self.task = FineTuneTask(model, config, self.data, self.base.tokenizer, precision)
        train = config.train
        self.batches = RowBatches(
            self.data.train,
            batch_size=train.batch_size,
            grad_accum_steps=train.grad_accum_steps,
            seed=train.seed,
            pack_to=config.data.max_length if config.data.packing else None,
        )
        if config.data.packing:
            check_packing(self.task, self.batches.sequences)
        self.identity = {
            "rows_sha256": rows_sha256(self.data),
            "packed_to": config.data.max_length if config.data.packing else None,
            "seed": train.seed,
        }
        self.probes: list[Probe] = []
        if train.forget_tokens:
            self.probes.append(self._forgetting(model, precision))
        if config.has_adapter:
            self.probes.append(AdapterWatch())
        self.resolved = self._facts(model)
        if config.has_adapter:
            folder = self.run.path / FOLDER
            folder.mkdir(exist_ok=True)
            write_adapter_config(model, folder)  # from here on every state of the run can be opened as an adapter

    def load(self, config: FineTuneConfig, precision: Precision) -> nn.Module:
        """The base."""
        return load_base(self.base, config, precision.name, self.device)

    def adapt(self, model: nn.Module, config: FineTuneConfig) -> tuple[nn.Module, Targets]:
        """The base with its adapter, everything else frozen."""
        return attach(model, config.model, config.train.seed, address=self.base.address)

    def started(self, step: int) -> str:
        trained = sum(parameter.numel() for parameter in self.task.model.parameters() if parameter.requires_grad)
        what = f"{trained:,} weights beside" if self.config.has_adapter else "all of"
        start = f"from step {step:,}" if step else "which begins as the base model"
        return (
            f"Training {what} the {self.n_params:,} of {self.base.name} on {len(self.data.train):,} rows of "
            f"{self.config.data.dataset}, {start}."
        )

    @property
    def data_changed(self) -> str:
        return (
            f"The rows of {self.config.data.dataset} have changed since this run began, so it cannot go on as the same "
            "run; fork it to train on the new rows."
        )

    def finish(self) -> None:
        """The final adapter as peft writes it, for other programs."""
        if self.config.has_adapter:
            write_adapter(self.task.model, self.run.path / FOLDER)

    # -- inside -----------------------------------------------------------------------------------------

    def _resolve(self, config: FineTuneConfig) -> FineTuneConfig:
        """Decide on precision and threads before the model is loaded: it is loaded in that precision."""
        compute = config.compute
        precisions: list[PrecisionName] = (
            machine.available_precisions(self.device) if compute.precision == "auto" else [compute.precision]
        )
        if config.model.method == "qlora" and compute.precision == "auto":
            precisions = precisions[-1:]  # its 4 bits are turned into 16 anyway
        threads = [compute.threads] if compute.threads else machine.thread_candidates()
        was_open = "auto" in (compute.precision, compute.device) or compute.threads is None
        rows = min(2_048, config.train.batch_size * config.data.max_length)
        choice = machine.choose_compute(
            precisions, threads, self.device, f"a frozen layer, {rows} rows", _frozen_layer(rows, self.device)
        )
        if was_open:
            self.say("info", "decision", f"Computing in {choice.reason}.")
        return changed(config, device=self.device.type, precision=choice.precision, threads=choice.threads)

    def _check_lengths(self, model: nn.Module) -> None:
        """
        Raises:
            TrainingError: a row, or a packed sequence, is longer than the model can read.
        """
        context = context_of(model)
        longest = max(len(row.ids) for row in [*self.data.train, *self.data.val])
        wanted = self.config.data.max_length if self.config.data.packing else longest
        if wanted > context:
            raise TrainingError(
                f"{self.base.name} reads at most {context:,} tokens, but rows of {wanted:,} are asked for: set "
                f"max_length to {context:,} or less."
            )
        if self.config.data.packing and isinstance(model, GPTModel):
            raise ConfigError(["A GPT of the lab cannot keep packed rows apart: turn packing off."])

    def _forgetting(self, model: nn.Module, precision: Precision) -> Forgetting:
        return Forgetting(
            self.base.tokenizer,
            context_of(model),
            self.config.train.forget_tokens,
            device=self.device,
            autocast=precision.autocast,
        )

    def _tell_targets(self, found: Targets) -> None:
        where = f"family {found.family}" if found.family else "an unknown family: the linear layers inside its blocks"
        self.say(
            "info", "decision", f"Adapters beside {len(found.names):,} layers ({where}): {', '.join(found.endings)}."
        )

    def _facts(self, model: nn.Module) -> dict[str, Any]:
        return {
            "fused_optimizer": has_fused(model),
            "base": {"ref": self.base.ref, "name": self.base.name, "folder": str(self.base.folder)},
            "targets": list(self.targets.endings) if self.targets else [],
            "steps_per_epoch": self.batches.steps_per_epoch,
            "extent": asdict(Extent.of(self.batches.sequences)),
            "data": self.data.report.to_json() | {"sha256": self.identity["rows_sha256"]},
        }


def rows_sha256(data: Prepared) -> str:
    """A hash of the rows as tokens, of both parts: what the place in the data means something for."""
    digest = hashlib.sha256()
    for part in (data.train, data.val):
        for row in part:
            digest.update(json.dumps([row.ids, row.learn]).encode())
        digest.update(b"|")
    return digest.hexdigest()


def _frozen_layer(rows: int, device: torch.device) -> Any:
    """A step through a layer whose weights stay: the work that a fine-tuning mostly consists of."""
    weight = torch.ones(1_024, 1_024)

    def one_step(precision: Precision) -> None:
        x = torch.ones(rows, 1_024, device=device, dtype=precision.dtype, requires_grad=True)
        y = x
        matrix = weight.to(device, precision.dtype)
        for _ in range(3):
            y = F.silu(y @ matrix)
        y.float().sum().backward()

    return one_step
