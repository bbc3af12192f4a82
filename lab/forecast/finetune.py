"""The memory of fine-tuning a pretrained model with LoRA, plain or over 4-bit weights (QLoRA): the same replay.

The model is built from its config alone, on `meta`, so an 8-billion-parameter one costs nothing. peft puts its real
adapters on it, bitsandbytes' real 4-bit layers compute, and the real trainer takes the step. Only the packed weights
and their scales are laid out here by hand, since quantising needs numbers; `quantised_bytes` is the arithmetic, and a
test holds it against a real layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lab.config import FineTuneModelConfig, OptimConfig, PretrainConfig, TrainConfig
from lab.control import Control
from lab.finetuning.adapter import wrap
from lab.forecast.replay import FakeBatch, FakeBatches, NoRecorder, TokenIds, fakes, mark_state
from lab.forecast.rules import CPU, CUDA, Device, DeviceRules
from lab.forecast.storages import Log, StorageTracker
from lab.forecast.timeline import DEEP, SHALLOW, Timeline, deepen, timeline
from lab.training.dropout import DropoutClock
from lab.training.keeper import Keeper
from lab.training.loss import summed_cross_entropy
from lab.training.precision import Precision, PrecisionName
from lab.training.trainer import Trainer

NF4_BLOCK = 64
"""Weights that share one scale."""
NESTED_BLOCK = 256
"""Scales that share one scale of their own, under double quantisation."""
PAGED_FROM = 100_000
"""bitsandbytes pages the state of tensors with at least this many elements; smaller ones stay on the device."""


@dataclass(frozen=True)
class AdapterTraining:
    """All that the memory of fine-tuning depends on, apart from the model."""

    batch_size: int = 1
    length: int = 512
    """Tokens in a sequence, padded."""
    grad_accum_steps: int = 1
    rank: int = 16
    quantised: bool = False
    """Whether the frozen linear layers are NF4."""
    double_quantisation: bool = True
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    precision: PrecisionName = "bf16"
    """Of the frozen weights and of the products. Adapters are always fp32."""
    gradient_checkpointing: bool = True
    attention: Literal["sdpa", "eager"] = "sdpa"
    target_modules: Literal["all_linear", "attention", "mlp"] = "all_linear"


def quantised_bytes(elements: int, *, double_quantisation: bool) -> dict[str, int]:
    """Bytes of one NF4 matrix: half a byte per weight, and its scales.

    Plain: an fp32 scale per 64 weights and the 16 values of NF4. Double: the scales are bytes themselves, with one fp32
    scale per 256 of them, their mean, and the 256 values of the byte code.
    """
    scales = -(-elements // NF4_BLOCK)
    state = 16 * 4  # what the 16 codes stand for
    if double_quantisation:
        state += scales + 4 * -(-scales // NESTED_BLOCK) + 256 * 4 + 4
    else:
        state += 4 * scales
    return {"weights": -(-elements // 2), "quantisation_state": state}


def step_timeline(hf_config: Any, training: AdapterTraining, device: Device) -> Timeline:
    """The memory curve of one fine-tuning step.

    Args:
        hf_config: a transformers config (`LlamaConfig`, `Qwen2Config` …); `num_hidden_layers` says the depth.
    """
    rules = CUDA if device == "cuda" else CPU
    hf_config._attn_implementation = training.attention
    training = replace(training, grad_accum_steps=min(training.grad_accum_steps, 2))
    described = hf_config.to_json_string(use_diff=False)
    n_layers = hf_config.num_hidden_layers
    if n_layers <= DEEP:
        return _replayed(cast(Any, type(hf_config)), described, n_layers, training, rules)
    shallow, deep = (
        _replayed(cast(Any, type(hf_config)), described, depth, training, rules) for depth in (SHALLOW, DEEP)
    )
    return deepen(shallow, deep, n_layers)


@lru_cache(maxsize=256)
def _replayed(
    config_class: Any, described: str, n_layers: int, training: AdapterTraining, rules: DeviceRules
) -> Timeline:
    import json

    values = {**json.loads(described), "num_hidden_layers": n_layers}
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:n_layers]
    return timeline(replay_step(config_class.from_dict(values), training, rules))


def replay_step(hf_config: Any, training: AdapterTraining, rules: DeviceRules) -> Log:
    """Put adapters on the model and take one step."""
    model = adapted(hf_config, training)
    with fakes(rules) as tracker:
        _lay_out(model, training, tracker)
        trainer = _trainer(model, training, hf_config.vocab_size, tracker)
        model.train()
        with tracker.during("forward"):
            trainer._step()
        mark_state(trainer, tracker)
        if training.optimizer.startswith("paged") and rules.device == "cuda":
            _page_out(trainer, tracker)
    return tracker.log


def adapted(hf_config: Any, training: AdapterTraining) -> nn.Module:
    """The model with its adapters, on `meta`: set up as a run does it.

    The class is called directly: `from_config(dtype=…)` would set the default dtype of the whole process for a moment.
    """
    from transformers import AutoModelForCausalLM

    hf_config._attn_implementation = training.attention
    with torch.device("meta"):
        model = AutoModelForCausalLM._model_mapping[type(hf_config)](hf_config)
        if training.quantised:
            for name, module in list(model.named_modules()):
                if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
                    _to_4bit(model, name, training)
            model.is_loaded_in_4bit = True
        asked = FineTuneModelConfig(rank=training.rank, target_modules=training.target_modules)
        model, _ = wrap(model, asked, address="")
    if training.gradient_checkpointing:
        cast(Any, model).gradient_checkpointing_enable({"use_reentrant": False})
    return model


class AdapterTask:
    """What the trainer needs of a fine-tuning task: the model and its loss."""

    flops_per_token = 0

    def __init__(self, model: nn.Module, precision: PrecisionName, tracker: StorageTracker | None):
        self.model = model
        self.device = torch.device("cpu")
        self.precision = Precision(precision, self.device)
        self.dropout_clock = DropoutClock(0)
        self._tracker = tracker

    def loss_sum(self, batch: Any) -> Tensor:
        """Cross-entropy in nats, summed over the labels: the output layer never sees all positions at once."""
        if self._tracker is not None:
            self._tracker.begin_forward(self.dropout_clock.micro_step)
        rules = self._tracker.rules if self._tracker is not None else CPU
        inputs, labels = batch.inputs.to(self.device), batch.labels.to(self.device)
        causal = cast(Any, self.model).get_base_model()
        with self.precision.autocast(), rules.autocast(), _seen_by_peft(rules), _taken_for_real():
            hidden = causal.get_decoder()(input_ids=inputs, use_cache=False).last_hidden_state  # [B, T, C]
            return summed_cross_entropy(hidden, causal.get_output_embeddings().weight, labels)

    def evaluate(self, stop: Callable[[], bool]) -> None:
        """A forecast does not look."""

    def samples(self, step: int, stop: Callable[[], bool]) -> list[dict[str, Any]]:
        """Nor write."""
        return []


def trainer_of(task: AdapterTask, batches: Any, training: AdapterTraining) -> Trainer:
    """The trainer, told as much of a config as its step reads."""
    config = PretrainConfig(
        train=TrainConfig(batch_size=training.batch_size, max_steps=1),
        optim=OptimConfig(optimizer="adamw" if training.optimizer == "adamw" else "adamw_8bit"),
    )
    control = cast(Control, SimpleNamespace(want="run"))
    keeper = cast(Keeper, None)
    return Trainer(cast(Any, task), batches, config, NoRecorder(), control, keeper=keeper, matmul_peak=1.0, identity={})


# -- inside -----------------------------------------------------------------------------------------------


def _trainer(model: nn.Module, training: AdapterTraining, vocabulary: int, tracker: StorageTracker) -> Trainer:
    tracker.follow_modules(model, vocabulary)
    ids = TokenIds((training.batch_size, training.length), tracker)
    batch = FakeBatch(ids, ids, training.batch_size * training.length)
    task = AdapterTask(model, training.precision, tracker)
    return trainer_of(task, FakeBatches(batch, training.grad_accum_steps), training)


def _to_4bit(model: nn.Module, name: str, training: AdapterTraining) -> None:
    from bitsandbytes.nn import Linear4bit

    linear = cast(nn.Linear, model.get_submodule(name))
    layer = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=Precision(training.precision, torch.device("cpu")).dtype,
        compress_statistics=training.double_quantisation,
        quant_type="nf4",
        device="meta",
    )
    model.set_submodule(name, layer)


def _lay_out(model: nn.Module, training: AdapterTraining, tracker: StorageTracker) -> None:
    """Fakes in the place of all weights: frozen ones in the training's precision or 4 bits, adapters in fp32."""
    from bitsandbytes.nn import Linear4bit

    frozen = Precision(training.precision, torch.device("cpu")).dtype
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    is_4bit = name == "weight" and isinstance(module, Linear4bit)
                    made[id(tensor)] = (tensor, _fake(tensor, frozen, is_4bit, training, tracker))
                store[name] = made[id(tensor)][1]  # type: ignore[assignment]


def _fake(
    tensor: Tensor, frozen: torch.dtype, is_4bit: bool, training: AdapterTraining, tracker: StorageTracker
) -> Tensor:
    if is_4bit:
        packed = nn.Parameter(torch.empty((-(-tensor.numel() // 2), 1), dtype=torch.uint8), requires_grad=False)
        packed.quant_state = _quant_state(tensor, frozen, training, tracker)  # type: ignore[attr-defined]
        tracker.mark(packed, "weights")
        return packed
    is_parameter = isinstance(tensor, nn.Parameter)
    trains = is_parameter and tensor.requires_grad
    dtype = frozen if is_parameter and not trains else tensor.dtype
    fake = torch.empty(tensor.shape, dtype=dtype)
    if is_parameter:
        fake = nn.Parameter(fake, requires_grad=trains)
    tracker.mark(fake, "adapters" if trains else "weights")
    return fake


def _quant_state(tensor: Tensor, dtype: torch.dtype, training: AdapterTraining, tracker: StorageTracker) -> Any:
    from bitsandbytes.functional import QuantState

    scales = -(-tensor.numel() // NF4_BLOCK)
    nested = None
    if training.double_quantisation:
        nested = QuantState(
            absmax=torch.empty(-(-scales // NESTED_BLOCK), dtype=torch.float32),
            code=torch.empty(256, dtype=torch.float32),
            blocksize=NESTED_BLOCK,
            dtype=torch.float32,
        )
    state = QuantState(
        absmax=torch.empty(scales, dtype=torch.uint8 if nested else torch.float32),
        shape=tensor.shape,
        code=torch.empty(16, dtype=torch.float32),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=torch.empty((), dtype=torch.float32) if nested else None,
        state2=nested,
    )
    for part in (state, nested):
        for value in vars(part).values() if part is not None else ():
            if isinstance(value, Tensor):
                tracker.mark(value, "quantisation_state")
    return state


def _page_out(trainer: Trainer, tracker: StorageTracker) -> None:
    """Paged state lies in memory that the driver moves to the computer when the GPU needs room."""
    for parameter, state in trainer.optimizer.state.items():
        if parameter.numel() >= PAGED_FROM:
            for name in ("state1", "state2"):
                tracker.leave_out(state[name])


@contextmanager
def _taken_for_real() -> Iterator[None]:
    """transformers builds a mask of T × T for fake tensors, thinking that a compiler looks on, where a real run needs
    none. Only fakes are told apart by this function, so no other thread can notice."""
    from transformers.utils import import_utils

    before = import_utils.is_fake_tensor
    import_utils.is_fake_tensor = lambda _: False
    try:
        yield
    finally:
        import_utils.is_fake_tensor = before


@contextmanager
def _seen_by_peft(rules: DeviceRules) -> Iterator[None]:
    """peft asks whether *CUDA's* autocast is on. The flag belongs to this thread and moves no CPU tensor."""
    if rules.device == "cpu":
        yield
        return
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", torch.is_autocast_enabled("cpu"))
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)
