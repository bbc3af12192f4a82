"""The model that a fine-tuning starts from: found by name, loaded in the precision that the training asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from lab.config import FineTuneConfig, GPTConfig, PretrainConfig
from lab.data.tokenizers import Tokenizer, load_tokenizer
from lab.errors import ModelError, RunError
from lab.files import read_json
from lab.models.checkpoints import find_checkpoint, load_weights
from lab.models.families import anatomy, unwrapped
from lab.models.gpt import GPTModel, unfilled_gpt
from lab.models.pretrained import load_pretrained, quiet_transformers
from lab.models.registry import find_model
from lab.models.shapes import Precision as Storage
from lab.rundir import RunDir
from lab.sessions.hf_tokenizer import HFTokenizer
from lab.sessions.opening import resolved, run_of
from lab.training.precision import DTYPES, PrecisionName


@dataclass(frozen=True)
class Base:
    """Which model it is; nothing is loaded but its tokenizer."""

    ref: str
    """What opens the same model later: RUN@STEP of a run."""
    name: str
    folder: Path
    """Of the model's files, or of the run."""
    tokenizer: Tokenizer
    run: RunDir | None
    """Of a GPT that was pretrained here."""

    @property
    def address(self) -> str:
        """What an adapter's file says that it belongs to: a folder, which peft can load; a run by its name."""
        return self.ref if self.run is not None else str(self.folder)


def find_base(ref: str) -> Base:
    """The model that `ref` names.

    Raises:
        RunError: it names nothing, or a fine-tuning run.
        ModelError: it has to be pulled first.
        CheckpointError: no such checkpoint.
    """
    run = run_of(ref)
    ref = resolved(ref)
    if run is None:
        name, folder = find_pulled(ref)
        return Base(ref, name, folder, HFTokenizer(folder), None)
    if not isinstance(run.config(), PretrainConfig):
        raise RunError(f"Run {run.run_id} is a fine-tuning itself: fork it to train it further.")
    return Base(ref, run.info()["name"], run.path, load_tokenizer(read_json(run.tokenizer_path)), run)


def find_pulled(ref: str) -> tuple[str, Path]:
    """Name and folder of a model of other people's.

    Raises:
        ModelError: it has to be pulled first.
    """
    entry = find_model(ref)
    if entry.folder is None:
        raise ModelError(f"{entry.name} is not on this machine yet: run `lab models pull {entry.name}`.")
    return entry.name, entry.folder


def load_base(base: Base, config: FineTuneConfig, precision: PrecisionName, device: torch.device) -> nn.Module:
    """The model, ready to be given an adapter, or to be trained as a whole.

    Frozen weights are in the training's precision, in 4 or in 8 bits; weights that all train are in fp32.

    Raises:
        ModelError: it does not fit, is damaged, or cannot be stored in 4 or 8 bits.
    """
    if base.run is not None:
        return _load_gpt(base, config, device)
    model = load_pretrained(base.folder, storage_of(config, precision), device=device, name=base.name)
    return fitted(model, config, precision)


def storage_of(config: FineTuneConfig, precision: PrecisionName) -> Storage:
    """How the weights of a base are kept while it is trained."""
    quantised: dict[str, Storage] = {"qlora": "4bit", "lora_8bit": "8bit"}
    if config.model.method in quantised:
        return quantised[config.model.method]
    return "bf16" if precision == "bf16" and config.has_adapter else "fp32"


def fitted(model: nn.Module, config: FineTuneConfig, precision: PrecisionName) -> nn.Module:
    """A model of other people's, just loaded, set up to be trained as the config says."""
    if config.model.method in ("qlora", "lora_8bit"):
        compute_in(model, DTYPES[precision])
    elif precision == "fp16" and config.has_adapter:
        model = model.half()
    if config.model.method == "lora_8bit" and config.model.dora:
        _keep_scales(model)
    _attend(model, config)
    if config.compute.gradient_checkpointing:
        cast(Any, model).gradient_checkpointing_enable({"use_reentrant": False})
    return model


def gpt_shape(base: Base, config: FineTuneConfig) -> GPTConfig:
    """The shape of a GPT of the lab that is to be fine-tuned.

    Raises:
        ModelError: the method stores weights in a way that it does not have.
    """
    assert base.run is not None
    if config.model.method in ("qlora", "lora_8bit"):
        raise ModelError("A GPT of the lab is small and stays as it is: choose method lora or full.")
    return base.run.config_as(PretrainConfig).model


def _load_gpt(base: Base, config: FineTuneConfig, device: torch.device) -> GPTModel:
    assert base.run is not None
    model = unfilled_gpt(gpt_shape(base, config), attention_impl=config.compute.attention_impl)
    load_weights(find_checkpoint(base.run, int(base.ref.partition("@")[2])), model)
    model.gradient_checkpointing = config.compute.gradient_checkpointing
    return model.to(device)


def _attend(model: nn.Module, config: FineTuneConfig) -> None:
    """The attention that the config asks for, without dropout of its own: its masks would come from the generator that
    all threads share."""
    wanted = "sdpa" if config.compute.attention_impl == "sdpa" else "eager"
    with quiet_transformers():
        try:
            cast(Any, model).set_attn_implementation(wanted)
        except ValueError:  # an architecture without it
            cast(Any, model).set_attn_implementation("eager")
    for module in model.modules():
        for name in ("attention_dropout", "attn_dropout", "attn_pdrop"):
            found = getattr(module, name, None)
            if isinstance(found, nn.Dropout):
                found.p = 0.0
            elif isinstance(found, float):
                setattr(module, name, 0.0)


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """4-bit layers turn their weights into this format to multiply them."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype  # type: ignore[assignment]
            # On a CPU with 16-bit instructions bitsandbytes packs the weights anew at the first pass in eval mode, for
            # a kernel that has no backward: from the first evaluation on, no gradient would pass these layers.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _keep_scales(model: nn.Module) -> None:
    """On a CPU peft's DoRA puts a new weight into an 8-bit layer at each pass, one that has lost its scales, and the
    layer would take that loss over: the second pass failed."""
    from bitsandbytes.nn import Linear8bitLt

    class KeepsScales(Linear8bitLt):
        def init_8bit_state(self) -> None:
            scales = self.state.SCB
            super().init_8bit_state()
            if self.state.SCB is None:
                self.state.SCB = scales

    for module in model.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = KeepsScales


def context_of(model: nn.Module) -> int:
    """Tokens that it reads at most.

    Raises:
        ModelError: the family is unknown and its config does not say.
    """
    inner = unwrapped(model)
    if isinstance(inner, GPTModel):
        return inner.config.context_length
    config: Any = inner.config
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else anatomy(model).context_length


def all_weights(model: nn.Module) -> int:
    """The number of weights, 4-bit ones unpacked."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total
