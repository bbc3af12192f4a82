"""What runs left on disk to be taken along: adapters, exports with their certificates, captures."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lab.analysis.stored import stored_captures
from lab.errors import LabError
from lab.finetuning.export import exports_of
from lab.rundir import RunDir, all_runs
from lab.sessions.opening import ADAPTER_FOLDER

Kind = Literal["adapter", "export", "capture"]


@dataclass(frozen=True)
class Output:
    """One thing on disk."""

    kind: Kind
    title: str
    made_by: str
    """Name of the run, or of the model that was looked into."""
    run_id: str | None
    path: Path
    bytes: int
    made_at: str
    """UTC, ISO format."""
    proof: dict[str, Any] | None = None
    """Of an export: its certificate."""


def list_outputs(kinds: Sequence[Kind] = ("adapter", "export", "capture")) -> list[Output]:
    """Everything there is, the newest first."""
    found = [one for run in all_runs() for one in _of_run(run)] + _captures()
    return sorted((one for one in found if one.kind in kinds), key=lambda one: one.made_at, reverse=True)


def delete_output(output: Output) -> None:
    """Remove it from the disk. What a run is resumed from is its checkpoints, and stays.

    Raises:
        LabError: it is an adapter, which its run's checkpoints need, or it cannot be deleted.
    """
    if output.kind == "adapter":
        raise LabError("The adapter's folder belongs to its run, whose checkpoints need it: delete the run instead.")
    try:
        if output.path.is_dir():
            shutil.rmtree(output.path)
        else:
            output.path.unlink()
    except OSError as error:
        raise LabError(f"{output.path} could not be deleted: {error.strerror}; check its permissions.") from error


def _of_run(run: RunDir) -> list[Output]:
    info = run.info()
    found = []
    adapter = run.path / ADAPTER_FOLDER / "adapter_model.safetensors"
    if adapter.is_file():
        size = sum(path.stat().st_size for path in adapter.parent.iterdir())
        found.append(Output("adapter", "final adapter", info["name"], run.run_id, adapter.parent, size, _when(adapter)))
    for one in exports_of(run):
        proof = one.certificate
        title = f"{proof['format']}, {proof['number_format']}, step {proof['step']:,}"
        found.append(
            Output("export", title, info["name"], run.run_id, one.folder, one.bytes, proof["created_at"], proof)
        )
    return found


def _captures() -> list[Output]:
    return [
        Output(
            "capture",
            one.path.stem,
            str(one.about.get("title") or one.about.get("model") or ""),
            None,
            one.path,
            one.bytes,
            _when(one.path),
        )
        for one in stored_captures()
    ]


def _when(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
