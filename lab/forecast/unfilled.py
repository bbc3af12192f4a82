"""The model that a fine-tuning loads, without its weights: parts, shapes and number formats as the run will have them.

It is built from its config alone, on `meta`, so one of 8 billion parameters costs nothing. transformers' own function
puts bitsandbytes' layers into it. Only the packed weights and their scales are laid out here by hand, since quantising
needs numbers; `quantised_bytes` is the arithmetic, and a test holds it against real layers.
"""

import json
import logging
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lab.config import FineTuneConfig, GPTConfig
from lab.finetuning.base import fitted, storage_of
from lab.forecast.storages import StorageTracker
from lab.models.gpt import GPTModel
from lab.training.precision import PrecisionName

NF4_BLOCK = 64
"""Weights that share one scale."""
NESTED_BLOCK = 256
"""Scales that share one scale of their own, under double quantisation."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "8bit": torch.bfloat16, "4bit": torch.bfloat16}
"""Of what is not quantised, by how the base is stored."""
_LARGE = 10.0  # a score far out, where a bent output layer differs from a plain one


@dataclass(frozen=True)
class HFShape:
    """A model of transformers, as its config.json describes it."""

    config_class: Any
    described: str
    """JSON."""
    n_layers: int

    @classmethod
    def of(cls, hf_config: Any) -> "HFShape":
        return cls(type(hf_config), hf_config.to_json_string(use_diff=False), hf_config.num_hidden_layers)

    def config(self) -> Any:
        """A config of its own; nobody else changes it."""
        values = json.loads(self.described)
        if values.get("layer_types"):
            values["layer_types"] = values["layer_types"][: self.n_layers]
        name = self.config_class.attribute_map.get("num_hidden_layers", "num_hidden_layers")  # n_layer in GPT-2
        return self.config_class.from_dict({**values, name: self.n_layers})


Shape = HFShape | GPTConfig


def layers_are_alike(shape: Shape) -> bool:
    """Whether every layer does the same. Gemma's do not: some look at a window only, others at everything."""
    if isinstance(shape, GPTConfig):
        return True
    return len(set(json.loads(shape.described).get("layer_types") or ())) <= 1


def vocabulary_of(shape: Shape) -> int:
    """Scores of a position."""
    return shape.vocab_size if isinstance(shape, GPTConfig) else int(json.loads(shape.described)["vocab_size"])


def of_depth(shape: Shape, n_layers: int) -> Shape:
    """The same model with another number of layers."""
    if isinstance(shape, GPTConfig):
        return shape.model_copy(update={"n_layers": n_layers})
    return replace(shape, n_layers=n_layers)


def quantised_bytes(elements: int, *, double_quantisation: bool = True) -> dict[str, int]:
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


def unfilled(shape: Shape, config: FineTuneConfig, precision: PrecisionName) -> nn.Module:
    """The base on `meta`, ready to be given an adapter or to be trained as a whole: what `load_base` loads.

    The class is called directly: `from_config(dtype=…)` would set the default dtype of the whole process for a moment.
    """
    with torch.device("meta"):
        if isinstance(shape, GPTConfig):
            compute = config.compute
            return GPTModel(
                shape, attention_impl=compute.attention_impl, gradient_checkpointing=compute.gradient_checkpointing
            )
        model = _architecture(shape)
        storage = storage_of(config, precision)
        if storage in ("4bit", "8bit"):
            _quantise(model, storage)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(_DTYPES[storage])
    return fitted(model, config, precision)


def fill(model: nn.Module, tracker: StorageTracker) -> None:
    """Fakes in the place of all weights on `meta`; a shared one stays shared. To be called where tensors are fake.

    What trains beside frozen weights is an adapter.
    """
    from bitsandbytes.nn import Linear8bitLt

    # It would say at each layer that bf16 inputs become fp16 on their way to 8 bits.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    made: dict[int, tuple[Tensor, Tensor]] = {}
    has_frozen = not all(parameter.requires_grad for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, Linear8bitLt) and tracker.rules.device == "cuda":
            module.__class__ = _linear_8bit_on_cuda()
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = _fake(tensor, tracker)
                    tracker.mark(fake, "adapters" if has_frozen and fake.requires_grad else "weights")
                    made[id(tensor)] = (tensor, fake)  # the first keeps the id taken
                store[name] = made[id(tensor)][1]  # type: ignore[assignment]


@lru_cache(maxsize=64)
def reads_plainly(shape: Shape) -> bool:
    """Whether the scores are the output matrix times the last state, nothing added, bent or scaled: what a run measures
    on its loaded model (`FineTuneTask`) is measured here on the architecture's own code, around a small output matrix.
    """
    if isinstance(shape, GPTConfig):
        return True
    from transformers.modeling_outputs import BaseModelOutputWithPast

    with torch.device("meta"):
        model: Any = _architecture(shape if shape.n_layers == 1 else cast(HFShape, of_depth(shape, 1)))
    before = model.get_output_embeddings()
    if type(before) is not nn.Linear or before.bias is not None:
        return False
    numbers = torch.Generator().manual_seed(0)
    hidden = torch.randn((1, 4, before.in_features), generator=numbers)
    output = torch.nn.utils.skip_init(nn.Linear, before.in_features, 8, bias=False)
    output.weight.data.normal_(0.0, _LARGE / before.in_features**0.5, generator=numbers)
    model.set_output_embeddings(output)

    class States(BaseModelOutputWithPast):
        def __getattr__(self, name: str) -> None:
            """Whatever else a family returns, such as the choices of its experts: there is none."""

    class Decoder(nn.Module):
        def forward(self, *_: Any, **__: Any) -> Any:
            return States(last_hidden_state=hidden)

    setattr(model, model.base_model_prefix, Decoder())
    with torch.no_grad():
        scores = model(input_ids=torch.zeros((1, 4), dtype=torch.int64), use_cache=False).logits
        return bool(torch.allclose(scores, output(hidden), rtol=1e-3, atol=1e-3))


# -- inside -----------------------------------------------------------------------------------------------


def _architecture(shape: HFShape) -> Any:
    """
    Raises:
        ModelError: transformers has no language model of this kind.
    """
    from transformers import AutoModelForCausalLM

    from lab.errors import ModelError

    kinds = AutoModelForCausalLM._model_mapping
    if shape.config_class not in kinds:
        raise ModelError(f"{shape.config_class.__name__} is not a language model that transformers knows.")
    config = shape.config()
    config._attn_implementation = "eager"
    return kinds[shape.config_class](config)


def _quantise(model: Any, storage: Literal["4bit", "8bit"]) -> None:
    """bitsandbytes' layers in the place of linear ones, those that transformers would exchange."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    how = BitsAndBytesConfig(
        load_in_4bit=storage == "4bit",
        load_in_8bit=storage == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    replace_with_bnb_linear(model, modules_to_not_convert=get_keys_to_not_convert(model), quantization_config=how)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            weight.quant_state = _quant_state(weight.shape)
            weight.data = torch.empty((-(-weight.numel() // 2), 1), dtype=torch.uint8)
        elif isinstance(module, Linear8bitLt):
            weight = module.weight
            weight.data = torch.empty(weight.shape, dtype=torch.int8)
            weight.CB, weight.SCB = weight.data, torch.empty(weight.shape[0], dtype=torch.float32)
    setattr(model, f"is_loaded_in_{storage}", True)  # how peft knows


def _quant_state(shape: torch.Size) -> Any:
    """Of 4-bit weights in double quantisation, as `quantised_bytes` counts them."""
    from bitsandbytes.functional import QuantState

    scales = -(-shape.numel() // NF4_BLOCK)
    nested = QuantState(
        absmax=torch.empty(-(-scales // NESTED_BLOCK), dtype=torch.float32),
        code=torch.empty(256, dtype=torch.float32),
        blocksize=NESTED_BLOCK,
        dtype=torch.float32,
    )
    return QuantState(
        absmax=torch.empty(scales, dtype=torch.uint8),
        shape=shape,
        code=torch.empty(16, dtype=torch.float32),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=torch.empty((), dtype=torch.float32),
        state2=nested,
    )


def _fake(tensor: Any, tracker: StorageTracker) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, nn.Parameter):
        return empty
    fake: Any = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    if type(tensor) is nn.Parameter:
        return cast(Tensor, fake)
    vars(fake).update(vars(tensor))  # such as quant_type
    if hasattr(tensor, "quant_state"):
        fake.quant_state = copy(tensor.quant_state)
        fake.quant_state.state2 = copy(tensor.quant_state.state2)
        for part in (fake.quant_state, fake.quant_state.state2):
            for name, value in list(vars(part).items()):
                if isinstance(value, Tensor):
                    setattr(part, name, torch.empty_like(value, device="cpu"))
                    tracker.mark(getattr(part, name), "quantisation_state")
    else:
        fake.CB, fake.SCB = empty, torch.empty_like(fake.SCB, device="cpu")
        tracker.mark(fake.SCB, "quantisation_state")
    fake.__class__ = type(type(tensor).__name__, (type(fake),), {})  # peft tells packed weights by this name
    return cast(Tensor, fake)


@lru_cache(maxsize=1)
def _linear_8bit_on_cuda() -> Any:
    from bitsandbytes.autograd._functions import MatMul8bitLt
    from bitsandbytes.nn import Linear8bitLt

    class Linear8bitOnCuda(Linear8bitLt):
        """On a CPU bitsandbytes unpacks the matrix and multiplies; on CUDA it multiplies bytes. Which, it asks the
        input's device, and fakes are on the CPU. Outliers are left out: how many columns they take depends on numbers.
        """

        def forward(self, x: Tensor) -> Tensor:
            self.state.is_training, self.state.threshold = self.training, 0.0
            if self.weight.CB is not None:
                self.init_8bit_state()
            return cast(Tensor, MatMul8bitLt.apply(x, self.weight, None, self.bias, self.state))

    return Linear8bitOnCuda
