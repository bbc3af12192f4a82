"""Checkpoints on disk: one safetensors file, and a small JSON beside it that says what it is.

The file holds tensors (weights under `model.`, optimizer state under `optimizer.`) and, in its header, the
rest of the state as JSON. Loading it runs no code, whoever made it. The JSON beside it is written last: a
file without one was never finished, and is not a checkpoint.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab.errors import CheckpointError, LabError
from lab.files import read_json, sha256_of, write_atomically, write_json
from lab.rundir import RunDir

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["final", "kept", "saved", "resume", "deleted"]
"""final: the run's last word. kept: periodic. saved: by hand. resume: the rolling state of a run.
deleted: only in the record, where the last row of a step counts."""

_STATE = "lab_state"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What is known of a checkpoint without opening it."""

    step: int
    path: Path
    bytes: int
    sha256: str
    val_loss: float | None
    kind: Kind
    created_at: str

    def row(self) -> dict[str, Any]:
        """As a row of the table `checkpoints`; the path is relative to the run's directory."""
        return {
            "step": self.step,
            "path": f"{self.path.parent.name}/{self.path.name}",
            "bytes": self.bytes,
            "sha256": self.sha256,
            "val_loss": self.val_loss,
            "kind": self.kind,
        }


def write_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: dict[str, "Tensor"],
    state: dict[str, Any],
    val_loss: float | None,
    kind: Kind,
) -> CheckpointInfo:
    """Write `checkpoint-<step>.safetensors` and its JSON into `folder`, each atomically.

    Args:
        tensors: CPU tensors, contiguous, no two sharing memory.
        state: everything else, as JSON values.

    Raises:
        LabError: the disk is full or the folder cannot be written; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = folder / f"checkpoint-{step}.safetensors"
    header = {_STATE: json.dumps(state, allow_nan=False)}
    digest: list[str] = []

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:  # its own type, also for a full disk
            raise OSError(str(error)) from error
        digest.append(sha256_of(temporary))

    write_atomically(path, write)
    info = CheckpointInfo(
        step=step,
        path=path,
        bytes=path.stat().st_size,
        sha256=digest[0],
        val_loss=val_loss,
        kind=kind,
        created_at=_iso(datetime.now(UTC)),
    )
    _write_info(info)
    return info


def _write_info(info: CheckpointInfo) -> None:
    write_json(info.path.with_suffix(".json"), {**asdict(info), "path": info.path.name})


def checkpoints_in(folder: Path) -> list[CheckpointInfo]:
    """The finished checkpoints of a folder, by step."""
    while True:
        found = [_read_info(path) for path in folder.glob("checkpoint-[0-9]*.json")]
        there = [info for info in found if info is not None]
        if len(there) == len(found):
            return sorted(there, key=lambda info: info.step)
        # The run has just replaced one: its successor may have come too late for the list, so look again.


def _read_info(path: Path) -> CheckpointInfo | None:
    """What the JSON of a checkpoint says; None when it is not there any more."""
    data = path.with_suffix(".safetensors")
    try:
        return CheckpointInfo(**{**read_json(path), "path": data})
    except (LabError, TypeError):
        try:
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None
        # Damaged. It stays in the list, with a hash that no content has: whoever opens it is told.
        step = int(re.findall(r"\d+", path.stem)[0])
        return CheckpointInfo(
            step=step, path=data, bytes=0, sha256="", val_loss=None, kind="saved", created_at=_iso(written)
        )


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def list_checkpoints(run: RunDir) -> list[CheckpointInfo]:
    """Every state a run can be opened at, by step: kept ones and the rolling resume state."""
    kept = checkpoints_in(run.checkpoints)
    steps = {info.step for info in kept}
    return sorted(
        kept + [info for info in checkpoints_in(run.resume) if info.step not in steps], key=lambda info: info.step
    )


def find_checkpoint(run: RunDir, step: int | None = None) -> CheckpointInfo:
    """The checkpoint at `step`, or the newest.

    Raises:
        CheckpointError: there is none, or none at that step.
    """
    found = list_checkpoints(run)
    if not found:
        raise CheckpointError(
            f"Run {run.run_id} has no checkpoint yet; the first state is kept at its first evaluation."
        )
    if step is None:
        return found[-1]
    for info in found:
        if info.step == step:
            return info
    steps = ", ".join(str(info.step) for info in found)
    raise CheckpointError(f"Run {run.run_id} has no checkpoint at step {step}; it has {steps}.")


def verify(info: CheckpointInfo) -> None:
    """Compare the file with the hash that was taken when it was written.

    Raises:
        CheckpointError: it is missing or has changed since.
    """
    try:
        whole = info.path.stat().st_size == info.bytes and sha256_of(info.path) == info.sha256
    except OSError as error:
        raise CheckpointError(f"The checkpoint {info.path} is gone; choose another step.") from error
    if not whole:
        raise CheckpointError(
            f"The checkpoint {info.path.name} of step {info.step} is damaged: its content no longer has the hash "
            "it was written with; choose another step or resume from an earlier state."
        )


def is_whole(info: CheckpointInfo) -> bool:
    """Whether the file is there with the content it was written with."""
    try:
        verify(info)
    except CheckpointError:
        return False
    return True


def read_checkpoint(info: CheckpointInfo) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """All tensors of a checkpoint, on the CPU, and its state.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    verify(info)
    with _opened(info) as file:
        state = json.loads(file.metadata()[_STATE])
        return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118


def read_weights(info: CheckpointInfo) -> dict[str, "Tensor"]:
    """Only the weights of a checkpoint, by parameter name.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    verify(info)
    with _opened(info) as file:
        return {
            name.removeprefix("model."): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.startswith("model.")
        }


@contextmanager
def _opened(info: CheckpointInfo) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(info.path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as error:  # a rolling state may be replaced between a look and the opening
        raise CheckpointError(f"The checkpoint {info.path} cannot be opened ({error}); choose another step.") from error


def load_weights(info: CheckpointInfo, model: "nn.Module") -> None:
    """Put a checkpoint's weights into a model of the same shape.

    Raises:
        CheckpointError: missing, damaged, or the shapes do not fit.
    """
    put_weights(read_weights(info), model, source=info.path.name)


def put_weights(weights: dict[str, "Tensor"], model: "nn.Module", *, source: str) -> None:
    """Copy weights into a model, into all that may train; shared matrices stay shared.

    Raises:
        CheckpointError: a name is missing or too many, or a shape differs.
    """
    import torch

    # A tied matrix is listed once. What is frozen lies beside an adapter, and is as it was loaded.
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing, extra = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if missing or extra:
        raise CheckpointError(
            f"{source} does not fit this model: it lacks {sorted(missing)[:3]} and has {sorted(extra)[:3]} too many; "
            "open it with the config it was trained with."
        )
    for name, parameter in wanted.items():
        if parameter.shape != weights[name].shape:
            raise CheckpointError(
                f"{source} does not fit this model: {name} is {list(weights[name].shape)} in the file and "
                f"{list(parameter.shape)} in the model; a different width, context, depth or vocabulary."
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(weights[name])


def mark(info: CheckpointInfo, kind: Kind) -> CheckpointInfo:
    """Give a checkpoint another kind."""
    changed = replace(info, kind=kind)
    _write_info(changed)
    return changed


def remove_lonely(folder: Path) -> None:
    """Remove data without its JSON and half-written files, which a killed process left behind. For the process that
    writes here."""
    for path in folder.glob(".*"):  # ours, and those that safetensors makes while it writes
        _delete(path)
    for path in folder.glob("*.safetensors"):
        if not path.with_suffix(".json").exists():
            _delete(path)


def delete_checkpoint(run: RunDir, step: int) -> None:
    """Remove a kept checkpoint.

    Raises:
        CheckpointError: there is none at that step.
        LabError: the file cannot be removed.
    """
    for info in checkpoints_in(run.checkpoints):
        if info.step == step:
            remove(info)
            return
    raise CheckpointError(f"Run {run.run_id} has no kept checkpoint at step {step}.")


def remove(info: CheckpointInfo) -> None:
    """Delete the JSON first: from that moment on it is no checkpoint any more."""
    _delete(info.path.with_suffix(".json"))
    _delete(info.path)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LabError(f"{path} could not be deleted: {error.strerror}; check the folder's permissions.") from error
