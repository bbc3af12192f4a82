"""What differs between devices: how memory is rounded, what kernels need inside, what autocast does.

The replay runs on fake CPU tensors, also for a GPU: PyTorch without CUDA cannot make fake CUDA tensors that have a
gradient. Where CUDA does something else, a rule here says so, and a test holds the rule against its source.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Device = Literal["cpu", "cuda"]

GIB = 2**30
MIB = 2**20

CUDA_BLOCK = 512
"""CUDA's allocator hands out multiples of this many bytes (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)."""

PIECEMEAL_ROWS = 1536  # bitsandbytes/backends/cuda/ops.py, _gemm_4bit_custom_max_m, 0.50
_PICK = torch.ops.aten.index.Tensor
_aten = torch.ops.aten
_ARITHMETIC = {
    getattr(_aten, name + mark).Tensor: bool(mark) for name in ("mul", "add", "sub", "div") for mark in ("", "_")
}
"""Operation -> whether it writes into its first input."""
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@dataclass(frozen=True)
class DeviceRules:
    """How one kind of device spends memory."""

    device: Device

    def rounded(self, size: int) -> int:
        """Bytes that a tensor of `size` bytes takes."""
        if self.device == "cuda":
            return -(-size // CUDA_BLOCK) * CUDA_BLOCK
        return size

    def workspace(self, func: Any, args: tuple[Any, ...], result: Any) -> int:
        """Bytes that the kernel holds inside while it runs, beyond its results."""
        if self.device == "cuda" and func is _FLASH_BACKWARD:
            return flash_backward_workspace(args[1])
        if func is _PICK and (mask := args[1][0]) is not None and mask.dtype is torch.bool:
            return 8 * mask.dim() * len(result)  # where the mask is true: int64 [picked, dim]
        if func in _ARITHMETIC and self.device == "cpu":
            return widened(args[0], args[1], in_place=_ARITHMETIC[func])
        if func.namespace == "bitsandbytes":
            return self._bitsandbytes(str(func), args, result)
        return 0

    def _bitsandbytes(self, name: str, args: tuple[Any, ...], result: Any) -> int:
        if name == "bitsandbytes.gemm_4bit.default":
            return self._unpacked_4bit(args)
        if name == "bitsandbytes.int8_scaled_mm.default":
            return 4 * int(result.numel())  # bytes times bytes are summed in int32 first
        return 0

    def _unpacked_4bit(self, args: tuple[Any, ...]) -> int:
        """A product with a 4-bit matrix unpacks it first; on CUDA up to 1,536 rows are done piecemeal."""
        inputs, _, shape = args[:3]
        rows = inputs.numel() // inputs.shape[-1]
        if self.device == "cuda" and rows <= PIECEMEAL_ROWS:
            return 0
        elements = shape[0] * shape[1]
        return elements * inputs.element_size() + 4 * -(-elements // 64)  # and its scales in fp32

    def autocast(self) -> AbstractContextManager[object]:
        """Makes CPU autocast behave like the device's own."""
        return CudaAutocast() if self.device == "cuda" else nullcontext()

    @property
    def copies_batches(self) -> bool:
        """Whether token ids are copied to the device; on a CPU they stay where NumPy put them."""
        return self.device == "cuda"

    @property
    def state_copy_is_elsewhere(self) -> bool:
        """Whether the copy for a checkpoint lies in other memory than the training."""
        return self.device == "cuda"


CPU = DeviceRules("cpu")
CUDA = DeviceRules("cuda")


def widened(one: Tensor, other: Any, *, in_place: bool) -> int:
    """Bytes of the copies that a CPU makes where an operation joins two number formats (TensorIterator.cpp,
    compute_types): of the narrower input, and where the result goes there, of the result. CUDA converts as it computes.
    """
    if not isinstance(other, Tensor) or one.dtype is other.dtype or not (one.dim() and other.dim()):
        return 0
    common = torch.promote_types(one.dtype, other.dtype)
    copied = [tensor for tensor in (one, other) if tensor.dtype is not common]
    if in_place and one.dtype is not common:
        copied.append(one)  # as what is written
    return sum(common.itemsize * tensor.numel() for tensor in copied)


def flash_backward_workspace(query: Tensor) -> int:
    """What attention's backward pass needs on CUDA beyond dQ, dK and dV. `query` is [B, H, T, D].

    16 bits: FlashAttention sums dQ in fp32 [B, T, H, D], with T rounded up to 128 and D to 32, and keeps the row sums
    of dO · O, fp32 [B, H, T] (csrc/flash_attn/flash_api.cpp, mha_bwd). fp32: the memory-efficient kernel keeps only the
    row sums (aten/src/ATen/native/transformers/cuda/attention_backward.cu).
    """
    B, H, T, D = query.shape
    long = -(-T // 128) * 128
    row_sums = 4 * B * H * long
    if query.dtype == torch.float32:
        return row_sums
    return row_sums + 4 * B * long * H * (-(-D // 32) * 32)


# Functions that CUDA's autocast runs in fp32, whatever 16-bit values they are given: AT_FORALL_FP32 and
# AT_FORALL_FP32_SET_OPT_DTYPE in aten/src/ATen/autocast_mode.h. The CPU's leaves most of them in 16 bits.
_FP32_NAMES = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow", "softplus", "layer_norm", "group_norm", "cosine_similarity", "poisson_nll_loss",
    "cosine_embedding_loss",
    "nll_loss", "hinge_embedding_loss", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss",
    "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss",
    "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp", "prod", "softmax",
    "log_softmax", "cumprod", "cumsum", "sum", "norm", "rms_norm", "cross_entropy",
)  # fmt: skip


def _functions() -> dict[Callable[..., Any], str]:
    found: dict[Callable[..., Any], str] = {}
    for name in _FP32_NAMES:
        for owner in (torch, F, Tensor, torch._C._nn):
            function = getattr(owner, name, None)
            if function is not None:
                found[function] = name
    found[Tensor.__pow__] = "pow"
    return found


_FP32_FUNCTIONS = _functions()


class CudaAutocast(TorchFunctionMode):
    """While CPU autocast is on, do in fp32 what CUDA's autocast does in fp32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FP32_FUNCTIONS and torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
            args = tuple(_in_fp32(arg) for arg in args)
            kwargs = {name: _in_fp32(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _in_fp32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value
