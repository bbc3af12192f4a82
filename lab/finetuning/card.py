"""The card that lies beside an export: what it is, what it was made of, what it does, how to use it."""

from lab.config import FineTuneConfig
from lab.finetuning.certificate import Certificate
from lab.models.pulled import note_of, place_of
from lab.rundir import RunDir


def card(run: RunDir, config: FineTuneConfig, certificate: Certificate) -> str:
    """Markdown with the front matter that the hub reads."""
    info = run.info()
    data = (info.get("resolved") or {}).get("data") or {}
    licence = _licence(config.model.model)
    adapter = certificate.format == "adapter"
    lines = [
        "---",
        f"base_model: {config.model.model}",
        f"library_name: {'peft' if adapter else 'transformers'}",
        *([f"license: {licence.lower()}"] if licence else []),
        "---",
        "",
        f"# {info['name']}",
        "",
        f"{config.model.model}, fine-tuned with LLM Learning Lab: {_method(config)}, step {certificate.step:,} of run "
        f"`{run.run_id}`.",
        "",
        "| | |",
        "|---|---|",
        f"| base model | {config.model.model}{f' ({licence})' if licence else ''} |",
        f"| data set | {config.data.dataset}{_rows(data)} |",
        f"| training | {config.optim.optimizer}, learning rate {config.optim.learning_rate:g}, "
        f"{config.sequences_per_step} rows a step, seed {config.train.seed} |",
        f"| format | {certificate.format}, {certificate.number_format} |",
        *([f"| merged into | {certificate.merged_into} |"] if certificate.merged_into else []),
        "",
        "## Does this file compute what was trained?",
        "",
        f"{certificate.sentence} Compared with: {certificate.reference}. For this format a mean KL of up to "
        f"{certificate.threshold_kl:g} and a top-1 agreement of {certificate.threshold_top1:.0%} are asked for. The "
        "whole certificate, with a checksum of each file, is `certificate.json`.",
        *[f"\n{note}" for note in certificate.notes],
        "",
        "## Use",
        "",
        "```python",
        *_usage(config, certificate),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _method(config: FineTuneConfig) -> str:
    names = {"lora": "LoRA", "qlora": "QLoRA (NF4)", "lora_8bit": "LoRA beside 8 bits", "full": "all weights"}
    name = names[config.model.method]
    return name if not config.has_adapter else f"{name}, rank {config.model.rank}, alpha {config.model.alpha:g}"


def _rows(data: dict[str, object]) -> str:
    return f", {data['train_rows']:,} rows" if "train_rows" in data else ""


def _licence(base: str) -> str:
    note = note_of(place_of(base))
    return note.licence if note else ""


def _usage(config: FineTuneConfig, certificate: Certificate) -> list[str]:
    if certificate.format == "adapter":
        return [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            f"base = AutoModelForCausalLM.from_pretrained({config.model.model!r})",
            'model = PeftModel.from_pretrained(base, ".")',
        ]
    if certificate.format == "gguf":
        return ["# llama-cli -m model.gguf -p 'What is the capital of France?'"]
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
    ]
