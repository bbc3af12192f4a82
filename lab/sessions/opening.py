"""From what a person types to a model that is loaded."""

from pathlib import Path
from typing import Literal

from lab.config import PretrainConfig
from lab.data.tokenizers import load_tokenizer
from lab.errors import CheckpointError, ModelError, RunError
from lab.files import read_json
from lab.models.checkpoints import CheckpointInfo, find_checkpoint, load_weights
from lab.models.gpt import unfilled_gpt
from lab.models.pretrained import Footprint, footprint, load_pretrained
from lab.models.registry import ModelEntry, find_model, is_hub_id
from lab.models.shapes import Precision
from lab.rundir import RunDir, find_run
from lab.sessions.hf_tokenizer import HFTokenizer
from lab.sessions.session import ModelSession

Choice = Precision | Literal["auto"]

_TRIES = 3  # a live run may replace its rolling state between our look and our read
_FP32_LIMIT = 4 << 30  # bytes up to which "auto" takes fp32: exact, and not slower where a model is small


def open_session(ref: str, *, precision: Choice = "auto", device: str = "cpu") -> ModelSession:
    """Open a model.

    Args:
        ref: a run (`RUN` is its newest state, also while it trains, `RUN@STEP` that checkpoint), a registered name
            such as smollm2-135m, a folder, or a hub id that was pulled.
        precision: of a model that was not trained here; auto: fp32 where it is small, else the best that fits.

    Raises:
        RunError: it is neither a run nor a model.
        CheckpointError: no such checkpoint, or it is damaged.
        ModelError: it has to be pulled first, does not fit, or is damaged.
    """
    run = run_of(ref)
    if run is not None:
        return _open_run(ref, run)
    return _open_pretrained(ref, entry_of(ref), precision, device)


def run_of(ref: str) -> RunDir | None:
    """The run that `ref` names; None when it names a model that was not trained here.

    Raises:
        RunError: it names neither, or more than one run.
    """
    text, _, _ = ref.partition("@")
    try:
        return find_run(text)
    except RunError as not_a_run:
        if _names_a_model(ref):
            return None
        raise RunError(f"{not_a_run} It is no model either; `lab models list` shows those.") from not_a_run


def entry_of(ref: str) -> ModelEntry:
    """The model that `ref` names.

    Raises:
        ModelError: none.
    """
    return find_model(ref)


def resolved(ref: str) -> str:
    """The same model, named so that it stays the same one: a run with the step that is its newest now.

    Raises:
        LabError: as `open_session`.
    """
    run = run_of(ref)
    return ref if run is None else f"{run.run_id}@{find_checkpoint(run, _step(ref)).step}"


def needs(ref: str, precision: Choice = "auto", device: str = "cpu") -> int:
    """Bytes that opening it takes.

    Raises:
        LabError: as `open_session`.
    """
    run = run_of(ref)
    if run is not None:
        return find_checkpoint(run, _step(ref)).bytes
    found = footprint(_folder(entry_of(ref)), device)
    return found.needed[_chosen(found, precision, ref)]


def _names_a_model(ref: str) -> bool:
    if Path(ref).expanduser().is_dir() or is_hub_id(ref):
        return True
    try:
        find_model(ref)
    except ModelError:
        return False
    return True


def _step(ref: str) -> int | None:
    _, _, at = ref.partition("@")
    if at and not at.isdecimal():
        raise CheckpointError(f"{at!r} in {ref!r} is not a step: write RUN@STEP with a whole number.")
    return int(at) if at else None


def _open_run(ref: str, run: RunDir) -> ModelSession:
    step = _step(ref)
    config = run.config_as(PretrainConfig)
    model = unfilled_gpt(config.model)
    for attempt in range(_TRIES):
        info: CheckpointInfo = find_checkpoint(run, step)
        try:
            load_weights(info, model)
            break
        except CheckpointError:
            if attempt == _TRIES - 1 or info.path.exists():
                raise
    tokenizer = load_tokenizer(read_json(run.tokenizer_path))
    return ModelSession(
        ref=f"{run.run_id}@{info.step}",
        name=run.info()["name"],
        model=model.eval(),
        tokenizer=tokenizer,
        step=info.step,
        config=config,
        folder=run.path,
    )


def _open_pretrained(ref: str, entry: ModelEntry, precision: Choice, device: str) -> ModelSession:
    folder = _folder(entry)
    chosen = _chosen(footprint(folder, device), precision, entry.name)
    tokenizer = HFTokenizer(folder)
    model = load_pretrained(folder, chosen, device=device, name=entry.name)
    return ModelSession(ref=ref, name=entry.name, model=model, tokenizer=tokenizer, precision=chosen, folder=folder)


def _folder(entry: ModelEntry) -> Path:
    folder = entry.folder
    if folder is None:
        raise ModelError(f"{entry.name} is not on this machine yet: run `lab models pull {entry.name}`.")
    return folder


def _chosen(found: Footprint, precision: Choice, name: str) -> Precision:
    if precision != "auto":
        return precision
    if not found.fitting:
        raise ModelError(found.refusal(name, "4bit"))
    if found.fitting[0] == "fp32" and found.needed["fp32"] > _FP32_LIMIT:
        return "bf16"
    return found.fitting[0]
