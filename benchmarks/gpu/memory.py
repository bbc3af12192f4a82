"""Measures on a GPU what the memory forecast says, over more than 30 configs: python -m benchmarks.gpu.memory

Runs on a bare machine with torch, transformers, numpy, pydantic, psutil and safetensors; what needs peft or
bitsandbytes is left out where they are missing, and said so. Weights are random, so nothing is downloaded. The figures
go to benchmarks/results/gpu_memory.json; tests/forecast/test_gpu_figures.py holds the forecast against them anywhere.
"""

import argparse
import gc
import importlib.util
import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lab.config import PRESETS, FineTuneConfig, PretrainConfig, build_finetune, build_pretrain, changed, flat

RESULT = Path(__file__).parent.parent / "results" / "gpu_memory.json"
WARM_UP, MEASURED = 2, 2

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2.5-0.5B": ("Qwen2Config", {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "Qwen2.5-1.5B": ("Qwen2Config", {
        "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "Qwen2.5-7B": ("Qwen2Config", {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4}),
    "Llama-3.1-8B": ("LlamaConfig", {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8}),
}  # fmt: skip


def pretraining() -> Iterator[PretrainConfig]:
    """nano, small and medium in both precisions, with and without each memory knob."""
    for preset in ("nano", "small", "medium"):
        for values in (
            {"precision": "fp32"},
            {"precision": "bf16"},
            {"precision": "bf16", "batch_size": 16},
            {"precision": "bf16", "gradient_checkpointing": True, "batch_size": 16},
            {"precision": "bf16", "attention_impl": "manual"},
            {"precision": "bf16", "optimizer": "adamw_8bit", "grad_accum_steps": 2},
        ):
            yield changed(PRESETS[preset], **values)


def adapters() -> Iterator[tuple[str, dict[str, Any]]]:
    """LoRA and QLoRA at three lengths, and QLoRA with three optimizers."""
    for name in SHAPES:
        for length in (512, 1024, 2048):
            yield name, {"length": length, "quantised": False}
            yield name, {"length": length, "quantised": True, "optimizer": "paged_adamw_8bit"}
        for optimizer in ("adamw", "adamw_8bit"):
            yield name, {"length": 1024, "quantised": True, "optimizer": optimizer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["pretraining", "adapters"])
    only = parser.parse_args().only
    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA GPU here: nothing is measured.")
    figures: list[dict[str, Any]] = []
    has_bitsandbytes, has_peft = (importlib.util.find_spec(name) is not None for name in ("bitsandbytes", "peft"))
    if only != "adapters":
        for config in pretraining():
            if config.optim.optimizer == "adamw_8bit" and not has_bitsandbytes:
                print("left out: 8-bit AdamW, bitsandbytes is not installed")
                continue
            figures.append({"kind": "pretrain", "config": flat(config), **_measured(lambda c=config: _pretrainer(c))})
            _store(figures)
    if only != "pretraining":
        for name, values in adapters():
            if not has_peft or (values["quantised"] and not has_bitsandbytes):
                print(f"left out: {name} {values}, peft or bitsandbytes is not installed")
                continue
            figure = {"kind": "adapter", "model": name, "shape": SHAPES[name], "training": values}
            figures.append({**figure, **_measured(lambda n=name, v=values: _adapter_trainer(n, v))})
            _store(figures)


def _measured(make: Any) -> dict[str, Any]:
    """Peak of allocated and reserved bytes over whole steps after the warm-up; None where memory ran out."""
    gc.collect()
    torch.cuda.empty_cache()
    try:
        trainer = make()
        trainer.task.model.train()
        for _ in range(WARM_UP):
            trainer._step()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(MEASURED):
            trainer._step()
        figures = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    except torch.cuda.OutOfMemoryError:
        figures = {"allocated": None, "reserved": None}
    print(figures)
    return figures


def _pretrainer(config: PretrainConfig) -> Any:
    from lab.data.batches import WindowBatches
    from lab.training.precision import Precision
    from lab.training.pretraining import PretrainTask
    from lab.training.trainer import Trainer

    config = build_pretrain(flat(config), {"device": "cuda"})
    context, train = config.model.context_length, config.train
    needed = max(train.batch_size * train.grad_accum_steps * context, 4096) + 1
    tokens = np.random.Generator(np.random.PCG64(0)).integers(0, config.model.vocab_size, needed, dtype=np.uint16)
    tokenizer = SimpleNamespace(
        vocab_size=config.model.vocab_size, end_of_text=None, encode=lambda text: [0], count_bytes=len
    )
    data: Any = SimpleNamespace(val=tokens, tokenizer=tokenizer, opening="x")
    task = PretrainTask(config, data, torch.device("cuda"))
    assert config.compute.precision != "auto"
    task.precision = Precision(config.compute.precision, torch.device("cuda"))
    batches = WindowBatches(
        tokens,
        context_length=context,
        stride=context,
        batch_size=train.batch_size,
        grad_accum_steps=train.grad_accum_steps,
        seed=0,
    )
    control: Any = SimpleNamespace(want="run")
    keeper: Any = None
    return Trainer(task, batches, config, _Silence(), control, keeper=keeper, matmul_peak=1.0, identity={})


def adapter_config(values: dict[str, Any]) -> FineTuneConfig:
    """The fine-tuning that a figure was measured with."""
    changes = {"method": "qlora" if values["quantised"] else "lora", "optimizer": values.get("optimizer", "adamw")}
    usual = {"batch_size": 1, "precision": "bf16", "gradient_checkpointing": True, "device": "cuda"}
    return build_finetune({**usual, **changes})


def _adapter_trainer(name: str, values: dict[str, Any]) -> Any:
    import transformers

    from lab.finetuning.adapter import attach
    from lab.finetuning.batches import RowBatch
    from lab.finetuning.examples import Example
    from lab.finetuning.task import FineTuneTask
    from lab.forecast.unfilled import HFShape, unfilled
    from lab.training.precision import Precision
    from lab.training.trainer import Trainer

    config = adapter_config(values)
    config_class, shape = SHAPES[name]
    model = unfilled(HFShape.of(getattr(transformers, config_class)(**shape)), config, "bf16")
    _fill(model)
    model, _ = attach(model, config.model, seed=0, address="")
    length = values["length"]
    row = Example((1,) * length, (True,) * length, 1)
    data: Any = SimpleNamespace(train=[row], val=[row], questions=lambda count: [])
    task = FineTuneTask(model, config, data, None, Precision("bf16", torch.device("cuda")))  # type: ignore[arg-type]
    step = [RowBatch.of([(row,)], packed=False)]
    batches: Any = SimpleNamespace(
        steps_per_epoch=1.0, next_step=lambda: step, state=dict, load_state=lambda state: None
    )
    control: Any = SimpleNamespace(want="run")
    keeper: Any = None
    return Trainer(task, batches, config, _Silence(), control, keeper=keeper, matmul_peak=1.0, identity={})


def _fill(model: torch.nn.Module) -> None:
    """Random weights straight on the GPU, one after the other: quantised ones never stand there in 16 bits together."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = (tensor, _filled(tensor, module))
                store[name] = made[id(tensor)][1]


def _filled(tensor: Any, module: Any) -> Any:
    if hasattr(tensor, "quant_state"):
        from bitsandbytes.nn import Params4bit

        value = torch.randn(tensor.quant_state.shape, dtype=torch.bfloat16) * 0.02
        return Params4bit(value, requires_grad=False, quant_type="nf4", module=module).to("cuda")
    value = (torch.randn(tensor.shape, device="cuda", dtype=torch.float32) * 0.02).to(tensor.dtype)
    return torch.nn.Parameter(value) if isinstance(tensor, torch.nn.Parameter) else value


class _Silence:
    def rows(self, table: str, rows: object) -> None: ...
    def flush(self) -> None: ...
    def rollback(self, after_step: int) -> None: ...


def _store(figures: list[dict[str, Any]]) -> None:
    """After each, so that a session that ends early has kept something."""
    properties = torch.cuda.get_device_properties(0)
    measured = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": properties.name,
        "capability": [properties.major, properties.minor],
        "device_bytes": properties.total_memory,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    RESULT.write_text(json.dumps({"measured": measured, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
