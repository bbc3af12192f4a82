"""Storing what a benchmark measured, with the machine and the versions it was measured on."""

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lab.files import read_json, write_json

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "duckdb", "streamlit", "transformers", "bitsandbytes", "peft", "trl")


def store(name: str, figures: dict[str, Any]) -> Path:
    """Write `results/<name>.json`, replacing the last measurement."""
    path = FOLDER / f"{name}.json"
    write_json(path, {"measured": _circumstances(), **figures})
    print(f"stored in {path}")
    return path


def stored(name: str) -> dict[str, Any]:
    """The figures of the last measurement, without its circumstances; empty when there is none."""
    path = FOLDER / f"{name}.json"
    return {key: value for key, value in read_json(path).items() if key != "measured"} if path.exists() else {}


def _circumstances() -> dict[str, Any]:
    import psutil

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # a bare GPU machine has only some of them
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": versions,
    }
