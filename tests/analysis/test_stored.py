"""Captures survive a restart, bit by bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab.analysis.capture import THREE_POINTS, Capture, capture
from lab.analysis.stored import capture_path, captures_of, load_capture, save_capture
from lab.errors import DataError
from tests.tiny_models import some_ids, tiny


def equal(one: Capture, other: Capture) -> bool:
    same = torch.equal(one.ids, other.ids) and torch.equal(one.logits, other.logits)
    same &= list(one.residual) == list(other.residual)
    same &= all(torch.equal(one.residual[point], other.residual[point]) for point in one.residual)
    same &= all(torch.equal(a, b) for a, b in zip(one.attention, other.attention, strict=True))
    same &= all(torch.equal(one.heads[key], other.heads[key]) for key in one.heads)
    same &= all(torch.equal(one.summary[key].nan_to_num(-1), other.summary[key].nan_to_num(-1)) for key in one.summary)
    return bool(same) and (one.check, one.family, one.virtual, one.windows) == (
        other.check, other.family, other.virtual, other.windows
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gemma2", "phi"])
def test_a_stored_capture_is_the_same_capture(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny(name).to(dtype)
    for found in (
        capture(model, some_ids()),
        capture(model, some_ids(), points=THREE_POINTS, keep=[(1, 2), (0, 3)], logits="last"),
    ):
        path = capture_path(tmp_path, "base @ 3 / text")
        save_capture(found, path, about={"model": name, "text": "später"})
        read, about = load_capture(path)
        assert equal(found, read)
        assert about == {"model": name, "text": "später"}
        assert captures_of(tmp_path) == [path]


def test_differences_of_stored_captures_are_those_in_memory_also_after_a_restart(tmp_path: Path) -> None:
    base, tuned = capture(tiny("llama"), some_ids()), capture(tiny("qwen2"), some_ids())
    paths = [capture_path(tmp_path, name) for name in ("base", "tuned")]
    for found, path in zip((base, tuned), paths, strict=True):
        save_capture(found, path)
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom lab.analysis.stored import load_capture\n"
        "one, other = (load_capture(Path(path))[0] for path in sys.argv[1:])\n"
        "print(float((one.residual['post_attn'] - other.residual['post_attn']).double().sum()).hex())"
    )
    said = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    expected = (base.residual["post_attn"] - tuned.residual["post_attn"]).double().sum()
    assert float.fromhex(said.stdout) == float(expected)


def test_a_damaged_capture_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content in (None, b"", b"not a capture at all"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match="not a capture that can be read"):
            load_capture(path)
