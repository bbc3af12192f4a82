"""The memory of fine-tuning: LoRA and QLoRA on real architectures, against the allocator and against arithmetic."""

import statistics
from typing import Any

import pytest
import torch

from lab.data.batches import MicroBatch
from lab.forecast.finetune import AdapterTask, AdapterTraining, adapted, quantised_bytes, step_timeline, trainer_of
from lab.forecast.kinds import KINDS
from tests.forecast.reference import allocator_peak

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = {
    "vocab_size": 800,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TRAINING = AdapterTraining(batch_size=4, length=64, rank=8)

CONFIGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Qwen2Config", {}, {}),
    ("Qwen2Config", {"tie_word_embeddings": True}, {"gradient_checkpointing": False}),
    ("Qwen2Config", {"num_hidden_layers": 5}, {"grad_accum_steps": 2}),
    ("LlamaConfig", {}, {"precision": "fp32", "gradient_checkpointing": False}),
    ("LlamaConfig", {"vocab_size": 20_000}, {"rank": 32}),
    ("LlamaConfig", {}, {"length": 200, "attention": "eager", "gradient_checkpointing": False}),
    ("Qwen2Config", {}, {"quantised": True}),
    ("Qwen2Config", {}, {"quantised": True, "double_quantisation": False, "gradient_checkpointing": False}),
    ("LlamaConfig", {"num_hidden_layers": 5}, {"quantised": True, "optimizer": "adamw_8bit", "rank": 64}),
]


def hf_config(name: str, **values: Any) -> Any:
    return getattr(transformers, name)(**{**SHAPE, **values})


def test_forecast_of_adapters_is_within_1_percent_in_the_median_and_3_in_the_worst_case() -> None:
    torch.set_num_threads(1)
    errors = {}
    for name, shape, values in CONFIGS:
        training = AdapterTraining(**{**vars(TRAINING), **values})
        real = real_peak(hf_config(name, **shape), training)
        forecast = step_timeline(hf_config(name, **shape), training, "cpu").peak_bytes
        errors[f"{name} {shape} {values}"] = forecast / real - 1
    assert statistics.median(map(abs, errors.values())) <= 0.01, errors
    assert max(map(abs, errors.values())) <= 0.03, errors


def real_peak(config: Any, training: AdapterTraining) -> int:
    """Peak of two real steps, with random weights."""

    def work() -> object:
        model = adapted(config, training)
        _with_memory(model, training)
        ids = torch.zeros(training.batch_size, training.length, dtype=torch.int64).numpy().copy()
        batch = MicroBatch(torch.from_numpy(ids), torch.from_numpy(ids))
        trainer = trainer_of(AdapterTask(model, training.precision, None), _Batches(batch, training), training)
        model.train()
        for _ in range(2):
            trainer._step()
        return trainer

    return allocator_peak(work)


class _Batches:
    steps_per_epoch = 1.0

    def __init__(self, batch: MicroBatch, training: AdapterTraining):
        self._step = [batch] * training.grad_accum_steps

    def next_step(self) -> list[MicroBatch]:
        return self._step

    def state(self) -> dict[str, int]:
        return {}

    def load_state(self, state: object) -> None: ...


def _with_memory(model: torch.nn.Module, training: AdapterTraining) -> None:
    frozen = torch.bfloat16 if training.precision == "bf16" else torch.float32
    made: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = (tensor, _real(tensor, frozen, module, name, training))
                store[name] = made[id(tensor)][1]


def _real(tensor: Any, frozen: torch.dtype, module: Any, name: str, training: AdapterTraining) -> Any:
    if name == "weight" and isinstance(module, bitsandbytes.nn.Linear4bit):
        return bitsandbytes.nn.Params4bit(
            torch.randn(tensor.shape, dtype=frozen) * 0.02,
            compress_statistics=training.double_quantisation,
            quant_type="nf4",
            module=module,
        ).to("cpu")
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    trains = is_parameter and tensor.requires_grad
    value = torch.randn(tensor.shape).mul_(0.02).to(frozen if is_parameter and not trains else tensor.dtype)
    return torch.nn.Parameter(value, requires_grad=trains) if is_parameter else value


@pytest.mark.parametrize("double", [True, False])
def test_the_bytes_of_a_4_bit_layer_are_those_of_a_real_one_and_of_the_hand(double: bool) -> None:
    # 512 × 640 = 327,680 weights: 163,840 bytes of 4 bits, 5,120 scales.
    by_hand = {True: 5_120 + 4 * 20 + 256 * 4 + 4 + 16 * 4, False: 4 * 5_120 + 16 * 4}[double]
    assert quantised_bytes(512 * 640, double_quantisation=double) == {"weights": 163_840, "quantisation_state": by_hand}

    layer = bitsandbytes.nn.Params4bit(torch.randn(512, 640), compress_statistics=double, quant_type="nf4").to("cpu")
    state = layer.quant_state
    tensors = [state.absmax, state.code]
    if double:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    assert sum(t.numel() * t.element_size() for t in tensors) == by_hand
    assert layer.numel() * layer.element_size() == 163_840


def test_frozen_weights_have_no_gradient_and_no_optimizer_state() -> None:
    timeline = step_timeline(hf_config("Qwen2Config"), TRAINING, "cpu")
    at = {kind: int(size) for kind, size in zip(KINDS, timeline.live[-1], strict=True)}
    adapters = 0
    for wide, tall in ((64, 64), (64, 32), (64, 32), (64, 64), (64, 160), (64, 160), (160, 64)):
        adapters += 8 * (wide + tall) * 4
    assert at["adapters"] == 2 * adapters
    assert at["optimizer"] == pytest.approx(2 * at["adapters"], rel=0.01)
    assert max(timeline.live[:, KINDS.index("gradients")]) == at["adapters"]


def test_need_grows_with_rank_batch_and_length() -> None:
    def peak(**values: Any) -> int:
        return step_timeline(
            hf_config("Qwen2Config"), AdapterTraining(**{**vars(TRAINING), **values}), "cuda"
        ).peak_bytes

    for knob, values in {"rank": (4, 16, 64), "batch_size": (1, 2, 5), "length": (16, 64, 160)}.items():
        peaks = [peak(**{knob: value}) for value in values]
        assert peaks == sorted(peaks)


def test_two_depths_extrapolated_equal_the_full_replay() -> None:
    from lab.forecast.finetune import replay_step
    from lab.forecast.rules import CUDA
    from lab.forecast.timeline import timeline

    training = AdapterTraining(**{**vars(TRAINING), "quantised": True})
    full = timeline(replay_step(hf_config("Qwen2Config", num_hidden_layers=6), training, CUDA)).peak_bytes
    assert step_timeline(hf_config("Qwen2Config", num_hidden_layers=6), training, "cuda").peak_bytes == pytest.approx(
        full, rel=0.005
    )


def test_paged_state_is_not_on_the_gpu() -> None:
    def optimizer(name: str) -> int:
        training = AdapterTraining(batch_size=1, length=16, rank=64, optimizer=name, quantised=True)  # type: ignore[arg-type]
        timeline = step_timeline(hf_config("LlamaConfig", hidden_size=2048, num_hidden_layers=1), training, "cuda")
        return int(timeline.live[-1, KINDS.index("optimizer")])

    assert optimizer("paged_adamw_8bit") < optimizer("adamw_8bit") < optimizer("adamw") / 3
