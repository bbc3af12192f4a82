"""A fine-tuned model for other programs, with proof: what was written is loaded again and compared with the original.

outputs/<run_id>/exports/<format>-<numbers>-step<N>/
    the files        adapter_model.safetensors, model.safetensors or model.gguf, with what belongs to them
    certificate.json
    README.md        a card: what it is, what it was made of, how to use it
"""

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import lab
from lab.config import FineTuneConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import DataError, ModelError, RunError
from lab.files import read_json, sha256_of, write_bytes, write_json
from lab.finetuning.card import card
from lab.finetuning.certificate import PROMPTS, Certificate, compare, thresholds, verdict_of
from lab.finetuning.formats import Turn
from lab.finetuning.frames import frame_for
from lab.finetuning.gguf_file import write_gguf
from lab.finetuning.merge import Into, in_fp32, is_gpt, merge, open_trained
from lab.models.checkpoints import find_checkpoint, read_weights
from lab.models.families import unwrapped
from lab.models.gpt import GPTModel
from lab.models.gpt2_weights import export_gpt2, load_gpt2
from lab.models.pretrained import load_pretrained, quiet_transformers
from lab.rundir import RunDir
from lab.sessions.hf_tokenizer import HFTokenizer
from lab.sessions.opening import ADAPTER_FOLDER, open_session
from lab.sessions.session import ModelSession

Format = Literal["adapter", "merged", "gguf"]
Numbers = Literal["fp32", "bf16", "f16", "q8_0"]
NUMBERS: dict[Format, tuple[Numbers, ...]] = {
    "adapter": ("fp32",),
    "merged": ("bf16", "fp32"),
    "gguf": ("f16", "q8_0"),
}
"""What each format may be written in; the first is the default."""
FOLDER = "exports"
CERTIFICATE = "certificate.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Export:
    """One export of a run."""

    folder: Path
    certificate: dict[str, Any]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def export_run(
    run: RunDir,
    format: Format,
    *,
    step: int | None = None,
    numbers: Numbers | None = None,
    into: Into = "trained",
    tell: Tell = lambda what: None,
) -> Export:
    """Write a fine-tuning run's state for other programs, and prove it.

    Args:
        step: of the checkpoint; the newest when left out.
        numbers: of the weights in the file; the format's first when left out.
        into: the weights that an adapter trained beside 4 or 8 bits is added to.
        tell: called with what is being done.

    Raises:
        RunError: the run is no fine-tuning, or has no adapter to export.
        ModelError: the format cannot hold this model.
        LabError: it cannot be opened or written.
    """
    config = run.config()
    if not isinstance(config, FineTuneConfig):
        raise RunError(f"Run {run.run_id} is no fine-tuning: only those are exported here.")
    if format == "adapter" and not config.has_adapter:
        raise RunError("Every weight of this run was trained, so there is no adapter: export it merged.")
    chosen = numbers or NUMBERS[format][0]
    if chosen not in NUMBERS[format]:
        raise ModelError(f"{format} is written in {' or '.join(NUMBERS[format])}, not in {chosen}.")
    info = find_checkpoint(run, step)
    tell("asking the trained model")
    session, reference = open_trained(run, info.step)
    sequences = _sequences(session.tokenizer, config)
    trained = [_logits(session, ids) for ids in sequences]
    folder = run.path / FOLDER / f"{format}-{chosen}-step{info.step}"
    if into == "original" and format != "adapter":
        folder = folder.with_name(f"{folder.name}-original")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        tell("writing")
        said, notes = _write(run, info.step, format, chosen, into, folder, session)
        session.weights.model = nn.Module()  # its memory is needed for the second model
        tell("loading it again and comparing")
        exported, tokens_agree = _reload(folder, format, config, session.tokenizer, sequences)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # without its certificate it would be no export
        raise
    found = compare(trained, exported)
    is_exact = chosen == "fp32"
    kl, top1 = thresholds(is_exact=is_exact)
    certificate = Certificate(
        run_id=run.run_id,
        name=run.info()["name"],
        step=info.step,
        format=format,
        number_format=chosen,
        base=config.model.model,
        merged_into=said,
        reference=reference,
        tokens_agree=tokens_agree,
        comparison=found,
        threshold_kl=kl,
        threshold_top1=top1,
        verdict=verdict_of(found, is_exact=is_exact),
        notes=tuple(notes),
        files=tuple(_file(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
    )
    write_json(folder / CERTIFICATE, certificate.to_json())
    write_bytes(folder / "README.md", card(run, config, certificate).encode())
    return Export(folder, certificate.to_json())


def exports_of(run: RunDir) -> list[Export]:
    """What was exported of a run, the newest first."""
    found = [Export(path.parent, read_json(path)) for path in (run.path / FOLDER).glob(f"*/{CERTIFICATE}")]
    return sorted(found, key=lambda one: one.certificate["created_at"], reverse=True)


# -- writing ------------------------------------------------------------------------------------------------


def _write(
    run: RunDir, step: int, format: Format, numbers: Numbers, into: Into, folder: Path, session: ModelSession
) -> tuple[str, list[str]]:
    """Write the files; returns which weights the adapter was added to, and notes."""
    folder.mkdir(parents=True, exist_ok=True)
    if format == "adapter":
        _write_adapter(run, step, folder)
        return "", []
    merged = merge(run, step, into)
    if format == "gguf":
        if not isinstance(merged.tokenizer, HFTokenizer) or is_gpt(merged.model):
            raise ModelError("GGUF is written for the Llama family, not for a GPT of the lab: export it merged.")
        name = f"{run.info()['name']} ({run.config_as(FineTuneConfig).model.model})"
        write_gguf(merged.model, merged.tokenizer, folder / "model.gguf", quantisation=numbers, name=name)
        return merged.into, []
    if isinstance(merged.model, GPTModel):
        export_gpt2(merged.model, folder)
        write_json(folder / "tokenizer.json", merged.tokenizer.to_json())
        return merged.into, ["Written in the format of GPT-2, in fp32; the tokenizer is the lab's own."]
    whole: Any = merged.model
    with quiet_transformers():
        whole.to(torch.float32 if numbers == "fp32" else torch.bfloat16)
        whole.config.dtype = next(whole.parameters()).dtype
        whole.save_pretrained(folder)
        if isinstance(merged.tokenizer, HFTokenizer):
            merged.tokenizer.inner.save_pretrained(folder)
    return merged.into, []


def _write_adapter(run: RunDir, step: int, folder: Path) -> None:
    from safetensors.torch import save_file

    shutil.copy2(run.path / ADAPTER_FOLDER / "adapter_config.json", folder)
    weights = read_weights(find_checkpoint(run, step))
    tensors = {name.replace(".default", ""): tensor.contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


# -- reading back -------------------------------------------------------------------------------------------


def _reload(
    folder: Path, format: Format, config: FineTuneConfig, tokenizer: Tokenizer, sequences: Sequence[Tensor]
) -> tuple[list[Tensor], bool | None]:
    """The logits of what was written, read from its files alone; and whether its tokenizer reads as the trained one."""
    if format == "adapter":
        stored = {"qlora": "4bit", "lora_8bit": "8bit"}.get(config.model.method, "fp32")
        session = open_session(config.model.model, precision=stored, device="cpu")  # type: ignore[arg-type]
        in_fp32(session.model)
        session.add_adapter(folder, "exported")
        with session.using("exported"):
            return [_read(session.model, ids) for ids in sequences], None
    if format == "gguf":
        model, theirs = _from_gguf(folder)
        return [_read(model, ids) for ids in sequences], _reads_alike(theirs, tokenizer)
    if (folder / "tokenizer.json").is_file() and not isinstance(tokenizer, HFTokenizer):
        return [_read(load_gpt2(folder), ids) for ids in sequences], None
    model = load_pretrained(folder, "fp32")
    return [_read(model, ids) for ids in sequences], _reads_alike(HFTokenizer(folder).inner, tokenizer)


def _from_gguf(folder: Path) -> tuple[nn.Module, Any]:
    """By transformers' reader, which shares nothing with the writer but the format."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file="model.gguf", dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    return model.eval(), tokenizer


def _reads_alike(theirs: Any, ours: Tokenizer) -> bool:
    return all(list(theirs(prompt).input_ids) == ours.encode(prompt) for prompt in PROMPTS)


def _sequences(tokenizer: Tokenizer, config: FineTuneConfig) -> list[Tensor]:
    """The prompts in the frame that was trained in: int64 [1, pos] each. Those with unknown characters are left out."""
    frame = frame_for(tokenizer, config.data.chat_template)
    found = []
    for prompt in PROMPTS:
        try:
            found.append(torch.tensor([frame.prompt_ids((Turn("user", prompt),))]))
        except DataError:  # a tokenizer of characters
            continue
    if not found:
        raise ModelError("The model's tokenizer can read none of the prompts, so an export could not be proven.")
    return found


def _logits(session: ModelSession, ids: Tensor) -> Tensor:
    return session.logits(ids)[0].cpu()


@torch.no_grad()
def _read(model: nn.Module, ids: Tensor) -> Tensor:
    """[1, pos] -> logits [pos, vocab]."""
    if isinstance(unwrapped(model), GPTModel):
        return model(ids)[0].float()
    return model(input_ids=ids, use_cache=False).logits[0].float()


def _file(path: Path, folder: Path) -> dict[str, Any]:
    return {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _versions() -> dict[str, str]:
    found = {"lab": lab.__version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in ("torch", "transformers", "peft", "gguf")}
