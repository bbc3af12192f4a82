"""*fast* mode: Unsloth, found without being imported, and run in a process of its own.

Importing Unsloth patches transformers and trl for the whole process, takes half a minute, and without a GPU trains on
the CPU without a word. So it is only ever looked for here, lives in an environment of its own (`make unsloth`), and is
started where there is a GPU. The process trains the same run directory: same config, same control file, and its rows
come as segments.
"""

import os
import subprocess
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import ConfigError, TrainingError
from lab.models.checkpoints import list_checkpoints
from lab.paths import REPOSITORY
from lab.rundir import RunDir

if TYPE_CHECKING:
    from lab.training.run import Outcome

ENVIRONMENT = REPOSITORY / ".venv-unsloth"


def why_not() -> str:
    """Why fast mode cannot be used here, in one sentence; empty where it can."""
    import torch

    if not torch.cuda.is_available():
        return "fast mode needs an NVIDIA GPU, and this machine has none that PyTorch can use; choose compatible."
    if not is_installed():
        return "fast mode needs Unsloth, which is not installed: run `make unsloth`, or choose compatible."
    return ""


def is_installed() -> bool:
    """Whether Unsloth is in its environment; nothing of it is imported."""
    return any(Path(ENVIRONMENT).glob("lib/python*/site-packages/unsloth/__init__.py"))


def is_here() -> bool:
    """Whether this very process could import Unsloth."""
    return util.find_spec("unsloth") is not None


def refuse() -> None:
    """
    Raises:
        ConfigError: always; why fast mode cannot be used in this process.
    """
    raise ConfigError(
        [why_not() or "fast mode runs in a process of its own: start the run with `lab` or from the app."]
    )


def command(run: RunDir) -> list[str]:
    """What trains the run in Unsloth's environment."""
    return [str(ENVIRONMENT / "bin" / "python"), "-m", "lab.finetuning.fast_worker", run.run_id]


def execute(run: RunDir) -> "Outcome":
    """Train a run in Unsloth's environment, and wait for its end.

    Raises:
        TrainingError: the process ended without saying how the run did.
    """
    from lab.training.run import Outcome

    # Without this Unsloth would train on a CPU where it finds no GPU, without a word.
    environment = {**os.environ, "UNSLOTH_DISABLE_CPU_FALLBACK": "1", "LAB_HOME": str(run.path.parent.parent)}
    code = subprocess.run(command(run), env=environment, cwd=REPOSITORY, check=False).returncode
    info = run.info()
    if info["status"] not in ("finished", "stopped", "failed"):
        raise TrainingError(
            f"Unsloth's process ended with code {code} and left the run as {info['status']}; resume it."
        )
    states = list_checkpoints(run)
    newest = states[-1] if states else None
    return Outcome(
        info["status"], newest.step if newest else 0, newest.val_loss if newest else None, error=info.get("error")
    )
