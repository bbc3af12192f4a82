"""The replayed step of a fine-tuning against arithmetic, and against itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import FineTuneConfig, build_finetune
from lab.finetuning.batches import Extent
from lab.forecast.bare import bare_finetuning
from lab.forecast.finetune import all_learnt, replay_step, step_timeline
from lab.forecast.kinds import KINDS
from lab.forecast.rules import CPU, CUDA, DeviceRules, widened
from lab.forecast.timeline import timeline
from lab.forecast.unfilled import HFShape, quantised_bytes, reads_plainly
from tests.finetuning.helpers import SMALL, config_for, task_for, tiny_folder
from tests.tiny_models import CONFIGS as FAMILIES

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = {
    "vocab_size": 800, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LAYERS = ((64, 64), (64, 32), (64, 32), (64, 64), (64, 160), (64, 160), (160, 64))
"""In and out of the linear layers of a block of that shape: queries, keys, values, output, gate, up, down."""
IN_BLOCK = sum(wide * tall for wide, tall in LAYERS)
METHODS: list[dict[str, Any]] = [
    {},
    {"method": "qlora", "precision": "bf16"},
    {"method": "lora_8bit", "precision": "bf16"},
    {"dora": True},
    {"method": "full"},
]


def shape(name: str = "Qwen2Config", **values: Any) -> HFShape:
    return HFShape.of(getattr(transformers, name)(**{**SHAPE, **values}))


def config(**changes: Any) -> FineTuneConfig:
    return build_finetune({**SMALL, "batch_size": 4, "rank": 8}, changes)


def at_end(found: Any) -> dict[str, int]:
    return {kind: int(size) for kind, size in zip(KINDS, found.live[-1], strict=True)}


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


def test_packed_weights_and_their_scales_are_counted_to_the_byte() -> None:
    one = shape("LlamaConfig", num_hidden_layers=1)
    unpacked = 2 * (2 * 800 * 64 + 3 * 64)  # bf16: embedding, output layer, three norms
    four, eight = (
        at_end(step_timeline(one, config(method=method, precision="bf16"), all_learnt(16), "cpu"))
        for method in ("qlora", "lora_8bit")
    )
    rotary = four["weights"] - unpacked - IN_BLOCK // 2
    assert rotary == 2 * 8 * 4, "the angles of 16 numbers per head, kept twice"
    # An output has a scale of 4 bytes: a real layer of bitsandbytes says so, too.
    real = bitsandbytes.nn.Int8Params(torch.randn(160, 64), requires_grad=False).to("cpu")
    assert (real.nbytes, real.SCB.nbytes) == (160 * 64, 4 * 160)
    assert eight["weights"] == unpacked + rotary + IN_BLOCK
    assert eight["quantisation_state"] == 4 * sum(tall for _, tall in LAYERS)
    assert four["quantisation_state"] == sum(
        quantised_bytes(wide * tall)["quantisation_state"] for wide, tall in LAYERS
    )


def test_frozen_weights_have_no_gradient_and_no_optimizer_state() -> None:
    found = step_timeline(shape(), config(), all_learnt(64), "cpu")
    at = at_end(found)
    adapters = 4 * sum(8 * (wide + tall) for wide, tall in LAYERS)
    assert at["adapters"] == 2 * adapters
    assert at["optimizer"] == 2 * at["adapters"] + 4 * 2 * 2 * len(LAYERS), "two averages, and a counter per tensor"
    assert max(found.live[:, KINDS.index("gradients")]) == at["adapters"]
    assert at["checkpoint_copy"] == at["adapters"] + at["optimizer"]


def test_dora_adds_a_length_for_each_output() -> None:
    def adapters(**changes: Any) -> int:
        return at_end(step_timeline(shape(), config(**changes), all_learnt(16), "cpu"))["adapters"]

    assert adapters(dora=True) - adapters() == 2 * 4 * sum(tall for _, tall in LAYERS)


def test_where_every_weight_trains_each_takes_16_bytes() -> None:
    found = step_timeline(shape("LlamaConfig"), config(method="full"), all_learnt(64), "cpu")
    parameters = 2 * 800 * 64 + 2 * (IN_BLOCK + 2 * 64) + 64
    at = at_end(found)
    assert at["weights"] == pytest.approx(4 * parameters, rel=1e-3)  # and rotary angles
    assert at["optimizer"] == pytest.approx(8 * parameters, rel=1e-3)
    assert max(found.live[:, KINDS.index("gradients")]) == 4 * parameters
    assert at["checkpoint_copy"] == pytest.approx(12 * parameters, rel=1e-3)


@pytest.mark.parametrize("changes", METHODS, ids=str)
def test_need_grows_with_rank_batch_length_and_labels(changes: dict[str, Any]) -> None:
    usual = all_learnt(64)

    def peak(extent: Extent = usual, **more: Any) -> int:
        return step_timeline(shape(), config(**changes, **more), extent, "cuda").peak_bytes

    knobs: list[list[int]] = [
        [peak(batch_size=size) for size in (1, 2, 3, 5)],
        [peak(all_learnt(length)) for length in (16, 17, 64, 160)],
        [peak(Extent(64, labels)) for labels in (1, 30, 63)],
    ]
    if changes.get("method") != "full":
        knobs.append([peak(rank=rank) for rank in (4, 5, 16, 64)])
    for peaks in knobs:
        assert peaks == sorted(peaks)


@pytest.mark.parametrize("rules", [CPU, CUDA], ids=["cpu", "cuda"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Qwen2Config", {"method": "qlora", "precision": "bf16"}),
        ("LlamaConfig", {"method": "lora_8bit", "gradient_checkpointing": True}),
        ("LlamaConfig", {"method": "full", "precision": "bf16"}),
        ("GPT2Config", {"dora": True}),
        ("Gemma3TextConfig", {"head_dim": 16, "sliding_window": 16}),
    ],
)
def test_two_depths_extrapolated_equal_the_full_replay(name: str, changes: dict[str, Any], rules: DeviceRules) -> None:
    settings = {key: value for key, value in changes.items() if key not in ("head_dim", "sliding_window")}
    values = {key: value for key, value in changes.items() if key not in settings}
    if name == "GPT2Config":
        deep = HFShape.of(transformers.GPT2Config(vocab_size=800, n_embd=64, n_head=4, n_layer=7))
    else:
        deep = shape(name, num_hidden_layers=7, **values)
    full = timeline(replay_step(deep, bare_finetuning(config(**settings)), all_learnt(64), rules)).peak_bytes
    found = step_timeline(deep, config(**settings), all_learnt(64), rules.device).peak_bytes
    assert found == pytest.approx(full, rel=0.005)


@pytest.mark.parametrize("changes", METHODS, ids=str)
def test_a_batch_extrapolated_from_two_smaller_ones_equals_its_own_replay(changes: dict[str, Any]) -> None:
    many = config(**changes, batch_size=70)  # 8,890 labels, of which 838 are scored at once
    for rules in (CPU, CUDA):
        wide = shape("LlamaConfig", vocab_size=20_000)
        full = timeline(replay_step(wide, bare_finetuning(many), all_learnt(128), rules)).peak_bytes
        assert step_timeline(wide, many, all_learnt(128), rules.device).peak_bytes == pytest.approx(full, rel=0.001)


def test_paged_state_is_not_on_the_gpu() -> None:
    def optimizer(name: str) -> int:
        one = shape("LlamaConfig", hidden_size=2048, num_hidden_layers=1)
        changes = config(method="qlora", precision="bf16", rank=64, batch_size=1, optimizer=name)
        return at_end(step_timeline(one, changes, all_learnt(16), "cuda"))["optimizer"]

    assert optimizer("paged_adamw_8bit") < optimizer("adamw_8bit") < optimizer("adamw") / 3


def test_the_architecture_tells_of_its_output_layer_what_the_loaded_model_tells(tmp_path: Path) -> None:
    for name in FAMILIES:
        folder = tiny_folder(tmp_path / name, name)
        task, _ = task_for(config_for(folder))
        described = HFShape.of(transformers.AutoConfig.from_pretrained(folder))
        assert reads_plainly(described) == task._is_plain, name


def test_a_cpu_widens_what_an_operation_joins_and_cuda_does_not() -> None:
    narrow, wide = torch.ones(10, 6, dtype=torch.bfloat16), torch.ones(10, 1)
    assert widened(narrow, wide, in_place=False) == 4 * 60
    assert widened(narrow, wide, in_place=True) == 2 * 4 * 60, "read and written"
    assert widened(wide.expand(10, 6), narrow, in_place=True) == 4 * 60
    assert widened(narrow, torch.ones(()), in_place=True) == 0, "a single number has no say in the format"
    product = torch.ops.aten.mul.Tensor
    assert CPU.workspace(product, (narrow, wide), (narrow,)) == 4 * 60
    assert CUDA.workspace(product, (narrow, wide), (narrow,)) == 0
