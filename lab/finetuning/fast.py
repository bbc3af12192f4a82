"""*fast* mode: Unsloth, found without being imported.

Importing Unsloth patches transformers and trl for the whole process, takes half a minute, and without a GPU trains on
the CPU without a word. So it is only ever looked for, and lives in an environment of its own (`make unsloth`).
"""

from importlib import util
from pathlib import Path

from lab.errors import ConfigError
from lab.paths import REPOSITORY

ENVIRONMENT = REPOSITORY / ".venv-unsloth"


def why_not() -> str:
    """Why fast mode cannot be used here, in one sentence."""
    import torch

    if not torch.cuda.is_available():
        return "fast mode needs an NVIDIA GPU, and this machine has none that PyTorch can use; choose compatible."
    if not is_installed():
        return "fast mode needs Unsloth, which is not installed: run `make unsloth`, or choose compatible."
    return ""


def is_installed() -> bool:
    """Whether Unsloth is in its environment, or in this one; nothing of it is imported."""
    here = util.find_spec("unsloth") is not None
    return here or any(Path(ENVIRONMENT).glob("lib/python*/site-packages/unsloth/__init__.py"))


def refuse() -> None:
    """
    Raises:
        ConfigError: fast mode cannot be used here.
    """
    reason = why_not()
    if reason:
        raise ConfigError([reason])
