"""What CUDA does differently, each rule against its source."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import PRESETS, changed
from lab.forecast.memory import step_timeline
from lab.forecast.rules import _FP32_FUNCTIONS, _FP32_NAMES, CPU, CUDA, CudaAutocast, flash_backward_workspace

FP32_LISTS = ("self.torch_fp32", "self.nn_fp32", "self.methods_fp32")

pytestmark = pytest.mark.filterwarnings("ignore")


def torchs_own_list() -> set[str]:
    """The functions that PyTorch's tests expect CUDA's autocast to run in fp32: read, since importing that file needs
    packages that only PyTorch's developers have."""
    source = Path(torch.__file__).parent / "testing" / "_internal" / "autocast_test_lists.py"
    lists = next(
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "AutocastTestLists"
    )
    return {
        entry.elts[0].value
        for node in ast.walk(lists)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in FP32_LISTS
        for entry in node.value.elts
    }


def test_every_function_that_pytorch_tests_in_fp32_under_cuda_autocast_is_in_our_list() -> None:
    special = {"__pow__", "__rpow__", "norm", "ctc_loss", "nll_loss2d"}  # operators; and for speech and pictures only
    unknown = {name for name in torchs_own_list() - special if name not in _FP32_NAMES}
    assert not unknown


def test_matrix_products_are_not_in_the_list() -> None:
    assert not {torch.matmul, torch.mm, torch.bmm, torch.nn.functional.linear} & set(_FP32_FUNCTIONS)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.softmax(x, -1),
        lambda x: torch.nn.functional.layer_norm(x, (8,)),
        lambda x: x.pow(2),
        lambda x: x.sum(-1),
    ],
)
def test_16_bit_inputs_come_out_in_fp32_as_on_cuda(compute: Any) -> None:
    x = torch.ones(4, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with CudaAutocast():
            assert compute(x).dtype is torch.float32
        assert torch.relu(x).dtype is torch.bfloat16
    with CudaAutocast():
        assert compute(x).dtype is torch.bfloat16, "nothing changes without autocast"


def test_cuda_hands_out_multiples_of_512_bytes_and_a_cpu_what_is_asked() -> None:
    assert [CUDA.rounded(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]
    assert CPU.rounded(513) == 513


def test_flash_attentions_backward_pass_sums_queries_in_fp32() -> None:
    query = torch.empty(2, 3, 100, 40, dtype=torch.bfloat16, device="meta")
    # 100 positions become 128, 40 numbers become 64: 2 × 128 × 3 × 64 × 4 bytes, and a sum of 4 bytes for each row.
    assert flash_backward_workspace(query) == 2 * 128 * 3 * 64 * 4 + 2 * 3 * 128 * 4
    assert flash_backward_workspace(query.float()) == 2 * 3 * 128 * 4


def test_the_fused_kernels_keep_no_context_times_context_matrix_and_the_manual_path_does() -> None:
    base = changed(PRESETS["pocket"], vocab_size=100, n_layers=2, precision="bf16", batch_size=2, context_length=512)
    fused = step_timeline(base, "cuda").peak_bytes
    manual = step_timeline(changed(base, attention_impl="manual"), "cuda").peak_bytes
    matrix = 2 * 4 * 512 * 512 * 4  # batch × heads × T × T in fp32
    assert manual - fused > 2 * matrix


def test_on_cuda_the_token_ids_are_on_the_device_too() -> None:
    from lab.forecast.replay import replay_step

    config = changed(PRESETS["pocket"], vocab_size=100, n_layers=1, precision="fp32", batch_size=3, context_length=64)
    ids = 3 * 64 * 8
    found = [storage.bytes for storage in replay_step(config, CUDA).storages if storage.shape == (3, 64)]
    assert found == [ids, ids], "inputs and labels"
    assert not any(storage.shape == (3, 64) and storage.bytes for storage in replay_step(config, CPU).storages)
