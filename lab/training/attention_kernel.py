"""Which attention kernel is really used, and why: asked of PyTorch itself, not guessed."""

import torch

from lab.config import ComputeConfig, GPTConfig

_NAMES = {0: "math", 1: "flash", 2: "memory-efficient", 3: "cuDNN"}
_REASONS = {
    "math": "no fused kernel takes these shapes in this precision here, so PyTorch runs the plain formula",
    "flash": "FlashAttention accepts this precision and head size: no context × context matrix is stored",
    "memory-efficient": "FlashAttention does not take this precision; this kernel stores no whole matrix either",
    "cuDNN": "PyTorch prefers NVIDIA's cuDNN kernel for this precision and shape",
}


def attention_kernel(
    model: GPTConfig, compute: ComputeConfig, batch_size: int, device: torch.device, dtype: torch.dtype
) -> tuple[str, str]:
    """The kernel's name and the reason, for training with this config."""
    if compute.attention_impl == "manual":
        return "manual", "attention is set to manual: every step is a PyTorch operation of its own"
    if model.attention_drop_rate > 0:
        return "manual", (
            f"attention dropout is {model.attention_drop_rate:g}: its masks must not come from the generator that "
            "all threads share, so training takes the manual path (evaluation takes the fused one)"
        )
    shape = (batch_size, model.n_heads, model.context_length, model.emb_dim // model.n_heads)
    probe = torch.empty(shape, device=device, dtype=dtype, requires_grad=True)
    choice = torch._fused_sdp_choice(probe, probe, probe, None, 0.0, True)
    name = _NAMES.get(int(choice), f"backend {int(choice)}")
    return name, _REASONS.get(name, "PyTorch chose it")
