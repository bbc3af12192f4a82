"""Captures on disk: one safetensors file, so that a base and a tuned model that don't fit together can be compared.

What is stored is what was captured, in the same format, bit by bit; what was derived from it is derived again.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab import paths
from lab.analysis.capture import Capture, Residual
from lab.analysis.checks import Check, Checks
from lab.errors import DataError, LabError
from lab.files import write_atomically
from lab.rundir import all_runs

FOLDER = "captures"
"""Under the run, beside its checkpoints."""


@dataclass(frozen=True)
class StoredCapture:
    """A capture on disk, and what was remembered about it."""

    path: Path
    about: dict[str, Any]

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def folder_of(run_folder: Path | None, model: str = "") -> Path:
    """Where the captures of a run lie; of a model that was not trained here: under outputs/.captures.

    Args:
        model: its name, where there is no run.
    """
    return run_folder / FOLDER if run_folder is not None else paths.outputs() / f".{FOLDER}" / _file_name(model)


def captures_of(folder: Path) -> list[Path]:
    """The captures that lie in a folder, by name."""
    return sorted(folder.glob("*.safetensors"))


def capture_path(folder: Path, name: str) -> Path:
    """Where a capture of this name lies, or will lie."""
    return folder / f"{_file_name(name)}.safetensors"


def stored_captures() -> list[StoredCapture]:
    """Every capture of this lab, the newest first; what cannot be read is left out."""
    folders = [run.path / FOLDER for run in all_runs()] + [*(paths.outputs() / f".{FOLDER}").glob("*")]
    found = [path for folder in folders for path in captures_of(folder)]
    listed = []
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(DataError):  # whoever opens it is told
            listed.append(StoredCapture(path, _facts(path)["about"]))
    return listed


def delete_capture(path: Path) -> None:
    """Remove a stored capture.

    Raises:
        LabError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LabError(f"{path} could not be deleted: {error.strerror}; check the folder's permissions.") from error


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", text).strip(".") or "capture"


def _facts(path: Path) -> dict[str, Any]:
    """From the file's header."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts: dict[str, Any] = json.loads(file.metadata()["lab_capture"])
            return facts
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a capture that can be read ({error}); make it again.") from error


def save_capture(found: Capture, path: Path, *, about: dict[str, Any] | None = None) -> None:
    """Write a capture.

    Args:
        about: what else should be remembered, as JSON: the model's name, the text.

    Raises:
        LabError: it cannot be written.
    """
    residual = found.residual
    tensors = {"ids": found.ids, "logits": found.logits, "stream": residual.stream}
    tensors |= {f"kept.{name}": tensor for name, tensor in residual.kept.items()}
    tensors |= {f"attention.{layer}": weights for layer, weights in enumerate(found.attention)}
    tensors |= {f"head.{layer}.{head}": weights for (layer, head), weights in found.heads.items()}
    tensors |= {f"summary.{name}": values for name, values in found.summary.items()}
    facts = {
        "points": list(residual),
        "check": found.check.to_json(),
        "family": found.family,
        "virtual": sorted(found.virtual),
        "windows": list(found.windows),
        "about": about or {},
    }
    # safetensors wants each tensor whole and for itself: no views, no shared memory
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(whole, temporary, metadata={"lab_capture": json.dumps(facts)})
        except SafetensorError as error:  # its own type, also for a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)


def load_capture(path: Path) -> tuple[Capture, dict[str, Any]]:
    """Read a capture on the CPU, and what was remembered about it.

    Raises:
        DataError: there is none, or it is damaged.
    """
    facts = _facts(path)
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    groups: dict[str, dict[str, torch.Tensor]] = {"kept": {}, "attention": {}, "head": {}, "summary": {}}
    for name, tensor in tensors.items():
        group, dot, rest = name.partition(".")
        if dot:
            groups[group][rest] = tensor
    heads = {name.partition("."): weights for name, weights in groups["head"].items()}
    found = Capture(
        ids=tensors["ids"],
        logits=tensors["logits"],
        attention=[groups["attention"][str(layer)] for layer in range(len(groups["attention"]))],
        heads={(int(layer), int(head)): weights for (layer, _, head), weights in heads.items()},
        summary=groups["summary"],
        residual=Residual(tensors["stream"], groups["kept"], facts["points"]),
        check=Checks(Check(**check) for check in facts["check"]),
        family=facts["family"],
        virtual=frozenset(facts["virtual"]),
        windows=tuple(facts["windows"]),
    )
    return found, facts["about"]
