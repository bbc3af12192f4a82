"""Opening other people's models: a folder with config.json and safetensors, in the precision that fits.

Opening one must not disturb a training that runs beside it in this process. `from_pretrained(dtype=bfloat16)` makes
bfloat16 the default of *every* thread while it builds the model: a tensor that a training makes in that moment would
have 8 bits of precision instead of 24. `_building_in` below builds under the usual default and casts afterwards.
"""

import json
import logging
import math
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lab.errors import ModelError
from lab.files import read_json
from lab.models.pulled import is_model_folder
from lab.models.shapes import PRECISIONS, Precision, weight_bytes

Told = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

_ACTIVATIONS = 0.15
"""Share of the weights' bytes that is added for what a forward pass of a short text takes beside them."""


@dataclass(frozen=True)
class Footprint:
    """What opening a model takes, and what there is."""

    parameters: int
    needed: dict[Precision, int]
    """Bytes in each precision, with room for reading a short text."""
    available: int
    place: str

    def fits(self, precision: Precision) -> bool:
        return self.needed[precision] <= self.available

    @property
    def fitting(self) -> list[Precision]:
        """Precisions that fit, the best first."""
        return [precision for precision in PRECISIONS if self.fits(precision)]

    def refusal(self, name: str, precision: Precision) -> str:
        """Why it does not fit, and what would."""
        advice = (
            f"Open it in {self.fitting[0]}, which takes {_gib(self.needed[self.fitting[0]])}."
            if self.fitting
            else "No precision of it fits here: close other programs, or choose a smaller model."
        )
        return (
            f"{name} has {self.parameters / 1e6:,.0f} million parameters and needs {_gib(self.needed[precision])} in "
            f"{precision}, but {_gib(self.available)} of {self.place} are free. {advice}"
        )


def footprint(folder: Path, device: torch.device | str = "cpu") -> Footprint:
    """What a folder's model takes, from the headers of its weight files: nothing is loaded.

    Raises:
        ModelError: the folder holds no model, or a file is damaged.
    """
    parameters, linear = count_parameters(folder)
    needed = {
        precision: int((1 + _ACTIVATIONS) * weight_bytes(parameters, linear, precision)) for precision in PRECISIONS
    }
    return Footprint(parameters, needed, *available(torch.device(device)))


def count_parameters(folder: Path) -> tuple[int, int]:
    """All weights in a folder's safetensors, and those in matrices inside the blocks.

    Raises:
        ModelError: the folder holds no model, or a file is damaged.
    """
    if not is_model_folder(folder):
        raise ModelError(f"{folder} holds no model: it needs config.json and *.safetensors.")
    total = linear = 0
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(path).items():
            if name == "__metadata__":
                continue
            count = math.prod(entry["shape"])
            total += count
            if len(entry["shape"]) == 2 and any(part.isdecimal() for part in name.split(".")):
                linear += count
    return total, linear


def load_pretrained(
    folder: Path,
    precision: Precision = "fp32",
    *,
    device: torch.device | str = "cpu",
    name: str = "",
    tell: Told | None = None,
) -> nn.Module:
    """Open a model for reading and looking: eval mode, attention computed in the open ("eager").

    Args:
        name: what the sentences call it; the folder when left out.
        tell: called while the weights are read, tensor by tensor.

    Raises:
        ModelError: it does not fit into memory, is damaged, or is of an architecture that transformers does not know.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    name = name or str(folder)
    needed = footprint(folder, device)
    if not needed.fits(precision):
        raise ModelError(needed.refusal(name, precision))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    more: dict[str, Any] = {}
    if precision == "8bit":
        more["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        # It says at every layer of every pass that bf16 inputs become fp16 on their way to 8 bits.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    elif precision == "4bit":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if precision in ("8bit", "4bit"):
        more["device_map"] = {"": torch.device(device)}
    with quiet_transformers(), _telling(tell):
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            kind = AutoModelForCausalLM._model_mapping[type(config)]
            model, report = _building_in(dtype, kind).from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **more,
            )
        except KeyError as error:
            raise ModelError(f"{name} is not a language model that transformers knows ({error}).") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{name} cannot be opened: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"]) or sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise ModelError(f"{name} lacks {len(missing)} of its weights, such as {missing[0]}: its files are incomplete.")
    model.__class__ = kind
    return (model if "device_map" in more else model.to(device)).eval()


def _building_in(dtype: torch.dtype, kind: Any) -> Any:
    """`kind`, but its parameters get their dtype by a cast on the meta device, not through the process' default."""

    class Quiet(kind):
        def __init__(self, config: Any, *args: Any, **kwargs: Any):
            super().__init__(config, *args, **kwargs)
            for parameter in self.parameters():
                parameter.data = parameter.data.to(dtype)  # of the meta device: nothing is computed

        @classmethod
        def get_init_context(cls, _: torch.dtype, *args: Any, **kwargs: Any) -> list[Any]:
            return super().get_init_context(torch.get_default_dtype(), *args, **kwargs)

    Quiet.__name__, Quiet.__qualname__, Quiet.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Quiet


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own progress bars and chatter; errors still come as errors."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()


@contextmanager
def _telling(tell: Told | None) -> Iterator[None]:
    """Pass on how far transformers is with the weights: of the loading in this thread, not of others."""
    if tell is None:
        yield
        return
    from transformers.utils import logging as chatter

    here = threading.get_ident()

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        items: Iterable[Any] | None = args[0] if args else options.get("iterable")
        if threading.get_ident() != here or items is None or not hasattr(items, "__len__"):
            return factory(*args, **options)
        return _told(items, len(items), tell)  # type: ignore[arg-type]

    before = chatter.set_tqdm_hook(hook)
    try:
        yield
    finally:
        chatter.set_tqdm_hook(before)


def _told(items: Iterable[Any], total: int, tell: Told) -> Iterator[Any]:
    for done, item in enumerate(items):
        tell("reading weights", done, total)
        yield item


def folder_config(folder: Path) -> dict[str, Any]:
    """What config.json says."""
    return read_json(folder / "config.json")


def _header(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        data = path.stat().st_size - 8 - length
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (struct.error, ValueError, OSError, MemoryError, OverflowError, TypeError, KeyError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}): copy or pull it again.") from error
    if end != data:
        raise ModelError(f"{path} is {data:,} bytes of weights where its header says {end:,}: copy or pull it again.")
    return header


def available(device: torch.device) -> tuple[int, str]:
    """Bytes that are free on a device now, and what to call them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], "the GPU's memory"
    import psutil  # here, because a bare GPU machine may lack it

    return psutil.virtual_memory().available, "this machine's memory"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
