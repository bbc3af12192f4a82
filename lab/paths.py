"""Where the lab reads and writes.

`LAB_HOME` (default: the repository's root, whatever the working directory) holds everything the lab
writes. It is read at each call, so a test can point it elsewhere.
"""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def home() -> Path:
    """The folder that holds `runs.duckdb` and `outputs/`."""
    return Path(os.environ.get("LAB_HOME") or REPOSITORY).expanduser().resolve()


def database_path() -> Path:
    return home() / "runs.duckdb"


def outputs() -> Path:
    return home() / "outputs"


def cache() -> Path:
    """Uploads, token files, downloads: all of it can be made again."""
    return outputs() / ".cache"


def bundled_corpora() -> Path:
    """Texts that ship with the lab: read only."""
    return REPOSITORY / "corpora"
