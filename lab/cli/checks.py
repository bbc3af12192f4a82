"""What `lab doctor` looks at. Each function looks at one thing and says what it found and what to do about it."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from lab import paths
from lab.cli.output import human_bytes
from lab.errors import DatabaseBusy, LabError

LOW_DISK = 2e9  # bytes: a few checkpoints of a small model


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ok: fine. note: worth knowing. bad: something will not work."""

    area: str
    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def python() -> Iterator[Check]:
    version = platform.python_version()
    fine = sys.version_info >= (3, 11)
    yield Check(
        "Versions", "Python", "ok" if fine else "bad", f"{version} on {platform.platform(terse=True)}",
        "" if fine else "The lab needs Python 3.11 or newer.",
    )  # fmt: skip


def packages() -> Iterator[Check]:
    """The packages the lab asks for, against the versions that were tested together."""
    tested = _tested_versions()
    for name in _required():
        pin = tested.get(_normal(name))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check("Versions", name, "bad", "not installed", "pip install -c constraints.txt -e .")
            continue
        same = pin is None or version.split("+")[0] == pin
        advice = "" if same else f"{pin} is the tested version: pip install -c constraints.txt -e ."
        yield Check("Versions", name, "ok" if same else "note", version, advice)


def devices() -> Iterator[Check]:
    import torch

    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        capability = f"compute capability {gpu.major}.{gpu.minor}"
        yield Check("Devices", f"cuda:{index}", "ok", f"{gpu.name}, {human_bytes(gpu.total_memory)}, {capability}")
    if torch.backends.mps.is_available():
        yield Check("Devices", "mps", "ok", "Apple GPU")
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        yield Check(
            "Devices", "cuda", "bad", f"an NVIDIA driver is here, but torch {torch.__version__} cannot use a GPU",
            "Install a CUDA build of torch: https://pytorch.org/get-started/locally",
        )  # fmt: skip
    yield Check("Devices", "cpu", "ok", f"{_cpu_name()}, {_cpus()} cores usable, {_bf16_on_cpu()}")


def attention() -> Iterator[Check]:
    """The kernel that `attention_impl sdpa` really runs here, asked of PyTorch."""
    import torch

    from lab.config import PRESETS, default_preset
    from lab.training.attention_kernel import attention_kernel
    from lab.training.precision import resolve_device

    device = resolve_device("auto")
    preset = default_preset(device.type != "cpu")
    config = PRESETS[preset]
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        kernel, why = attention_kernel(config.model, config.compute, config.train.batch_size, device, dtype)
        yield Check("Devices", f"attention in {name} ({preset} on {device})", "ok", f"{kernel}: {why}")


def threads() -> Iterator[Check]:
    from lab.cores import cores
    from lab.training.machine import thread_candidates

    counts = " or ".join(map(str, sorted(thread_candidates())))
    found = f"{cores()} cores; a run computes with {counts} threads, whichever is faster (--threads sets it)"
    yield Check("Machine", "threads", "ok", found)
    busy = os.getloadavg()[0]
    crowded = busy > _cpus() + 0.5
    yield Check(
        "Machine", "load", "note" if crowded else "ok", f"{busy:.1f} processes want to run on {_cpus()} cores",
        "Two threads on a busy machine can be slower than one: try --threads 1." if crowded else "",
    )  # fmt: skip


def memory_and_disk() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    yield Check("Machine", "memory", "ok", f"{human_bytes(memory.available)} free of {human_bytes(memory.total)}")
    home = paths.home()
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    writable = os.access(nearest, os.W_OK)
    yield Check(
        "Machine", "LAB_HOME", "ok" if writable else "bad", f"{home}{'' if home.exists() else ' (will be made)'}",
        "" if writable else f"{nearest} cannot be written: change its permissions or set LAB_HOME to another folder.",
    )  # fmt: skip
    free = shutil.disk_usage(nearest).free
    low = free < LOW_DISK
    yield Check(
        "Machine", "disk", "note" if low else "ok", f"{human_bytes(free)} free",
        "A checkpoint takes 12 bytes per parameter: free some space before long runs." if low else "",
    )  # fmt: skip


def vocabulary() -> Iterator[Check]:
    from lab.data.tokenizers import GPT2Tokenizer

    try:
        ids = GPT2Tokenizer().encode("Hello world")
    except LabError as error:
        yield Check("Offline assets", "GPT-2 vocabulary", "bad", str(error), "Fetch the repository again.")
        return
    right = ids == [15496, 995]
    yield Check("Offline assets", "GPT-2 vocabulary", "ok" if right else "bad", f'"Hello world" is {ids}')


def corpora() -> Iterator[Check]:
    """Every text of the lab that is here, against its checksum."""
    from lab.data.corpora import list_corpora
    from lab.files import sha256_of

    for corpus in list_corpora():
        name = f"corpus {corpus.name}"
        if not corpus.is_here or corpus.path is None:
            yield Check("Offline assets", name, "note", "not downloaded", f"lab corpora download {corpus.name}")
        elif corpus.kind != "own" and sha256_of(corpus.path) != corpus.sha256:
            yield Check("Offline assets", name, "bad", f"{corpus.path} is not the text it should be", "Fetch it again.")
        else:
            yield Check("Offline assets", name, "ok", human_bytes(corpus.bytes))


def database() -> Iterator[Check]:
    """Can the record be opened, and does it hold together?"""
    from lab.store import Database
    from lab.store.repair import examine

    path = paths.database_path()
    if not path.exists():
        yield Check("Record", path.name, "ok", "not there yet: the first run makes it")
        return
    try:
        with Database.open(path, patience_s=0.0) as record, record.cursor() as cursor:
            ((runs, metrics),) = cursor.execute(
                "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM metrics)"
            ).fetchall()
            notices = list(record.notices)
            found_wrong = [finding.sentence for finding in examine(record)]
    except DatabaseBusy as error:
        yield Check("Record", path.name, "ok", f"open in the app or another process ({error})")
        return
    except LabError as error:
        yield Check("Record", path.name, "bad", str(error), "lab doctor --repair")
        return
    found = f"{runs:,} runs, {metrics:,} values, {human_bytes(path.stat().st_size)}"
    yield Check("Record", path.name, "note" if notices else "ok", found, " ".join(notices))
    for sentence in found_wrong:
        yield Check("Record", "consistency", "note", sentence, "lab doctor --repair mends what can be mended.")


ALL: tuple[Callable[[], Iterator[Check]], ...] = (
    python,
    packages,
    devices,
    attention,
    threads,
    memory_and_disk,
    vocabulary,
    corpora,
    database,
)


def _tested_versions() -> dict[str, str]:
    """Pins of constraints.txt by package; none where the lab was installed without its repository."""
    path = paths.REPOSITORY / "constraints.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {_normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def _required() -> list[str]:
    """What the lab's own package metadata asks for on this machine, without extras."""
    wanted = []
    for line in metadata.requires("llm-learning-lab") or []:
        name, _, marker = line.partition(";")
        if "extra" in marker or ("linux" in marker and sys.platform != "linux"):
            continue
        wanted.append(re.split(r"[\s<>=!~\[]", name.strip())[0])
    return wanted


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _cpus() -> int:
    """Cores this process may use: inside a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _bf16_on_cpu() -> str:
    """Only processors with these instructions gain by bf16; elsewhere it is slower than fp32."""
    if not Path("/proc/cpuinfo").exists():
        return "bf16 unknown: precision auto measures it"
    flags = set(re.findall(r"\b(avx512_bf16|amx_bf16)\b", Path("/proc/cpuinfo").read_text()))
    return f"bf16 in hardware ({', '.join(sorted(flags))})" if flags else "no bf16 in hardware: fp32 is faster"
