"""From what a person types to a model that is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lab.config import FineTuneConfig, PretrainConfig
from lab.data.tokenizers import load_tokenizer
from lab.errors import CheckpointError, ModelError, RunError
from lab.files import read_json
from lab.models.adapters import base_of_folder, is_adapter_folder, precision_of_run
from lab.models.checkpoints import CheckpointInfo, find_checkpoint, load_weights, put_weights, read_weights
from lab.models.gpt import unfilled_gpt
from lab.models.pretrained import Told, load_pretrained
from lab.models.pulled import note_of
from lab.models.registry import ModelEntry, find_model, is_hub_id
from lab.rundir import RunDir, find_run
from lab.sessions.hf_tokenizer import HFTokenizer
from lab.sessions.placing import Choice, Place, find_place
from lab.sessions.session import ModelSession
from lab.sessions.variants import variant_name

_TRIES = 3  # a live run may replace its rolling state between our look and our read
ADAPTER_FOLDER = "adapter"
"""Of a fine-tuning run: what it learnt, as PEFT writes it."""


def open_session(
    ref: str, *, precision: Choice = "auto", device: str = "auto", tell: Told | None = None
) -> ModelSession:
    """Open a model.

    Args:
        ref: a run (`RUN` is its newest state, also while it trains, `RUN@STEP` that checkpoint), a registered name
            such as smollm2-135m, a folder (of a model, or of an adapter that PEFT wrote), or a hub id that was pulled.
        precision: of a model that was not trained here; auto: fp32 where it is small, else the best that fits; of a
            fine-tuning run that learnt beside 4 or 8 bits: those.
        device: auto: the GPU where there is one with room left, else the CPU.
        tell: called with what is being done, how much of it, and of how much.

    Raises:
        RunError: it is neither a run nor a model.
        CheckpointError: no such checkpoint, or it is damaged.
        ModelError: it has to be pulled first, does not fit, or is damaged.
    """
    adapter = adapter_of(ref)
    if adapter is not None:
        base = open_session(adapter.base, precision=adapter.as_trained(precision), device=device, tell=tell)
        return with_adapter(base, adapter)
    run = run_of(ref)
    if run is None:
        return _open_pretrained(ref, entry_of(ref), precision, device, tell)
    if isinstance(run.config(), FineTuneConfig):
        return _open_fully_tuned(ref, run, precision, device, tell)
    return _open_run(ref, run)


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
    """The same model, named so that it stays the same one, and by one name alone: a run with the step that is its
    newest now, a registered name for its folder.

    Raises:
        LabError: as `open_session`.
    """
    if is_adapter_folder(ref):
        return str(Path(ref).expanduser().resolve())
    run = run_of(ref)
    if run is not None:
        return f"{run.run_id}@{find_checkpoint(run, _step(ref)).step}"
    entry = entry_of(ref)
    note = note_of(Path(entry.address)) if entry.source == "folder" else None
    return entry.name if note is None else note.name


def place_for(ref: str, precision: Choice = "auto", device: str = "auto") -> Place:
    """Where a model without an adapter would stand, and the bytes that takes.

    Raises:
        LabError: as `open_session`.
    """
    run = run_of(ref)
    if run is None:
        return find_place(_folder(entry_of(ref)), entry_of(ref).name, precision, device)
    config = run.config()
    if isinstance(config, FineTuneConfig):
        return place_for(config.model.model, precision, device)
    return Place("cpu", "fp32", find_checkpoint(run, _step(ref)).bytes)


# -- adapters --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What was learnt on top of a model, and where it lies."""

    ref: str
    name: str
    base: str
    """What opens the model that it was learnt on."""
    folder: Path
    """With adapter_config.json."""
    checkpoint: CheckpointInfo | None = None
    """Of a run: where its weights lie."""
    precision: Choice = "auto"
    """Of the base, in training."""

    def as_trained(self, precision: Choice) -> Choice:
        """The precision to open the base in, when this one is asked for."""
        return self.precision if precision == "auto" else precision

    @property
    def variant(self) -> str:
        """Its name on the base."""
        return variant_name(self.ref)


def adapter_of(ref: str) -> Adapter | None:
    """The adapter that `ref` names: a folder that PEFT wrote, or a fine-tuning run; None when it names no adapter.

    Raises:
        LabError: it names nothing, or the adapter is damaged.
    """
    if is_adapter_folder(ref):
        folder = Path(ref).expanduser().resolve()
        return Adapter(ref=str(folder), name=folder.name, base=base_of_folder(ref), folder=folder)
    run = run_of(ref)
    config = run.config() if run is not None else None
    if run is None or not isinstance(config, FineTuneConfig) or not config.has_adapter:
        return None
    info = find_checkpoint(run, _step(ref))
    folder = run.path / ADAPTER_FOLDER
    if not is_adapter_folder(str(folder)):
        raise CheckpointError(f"Run {run.run_id} has no {folder.name}/ with adapter_config.json: train it again.")
    return Adapter(
        ref=f"{run.run_id}@{info.step}",
        name=run.info()["name"],
        base=config.model.model,
        folder=folder,
        checkpoint=info,
        precision=precision_of_run(run),
    )


def with_adapter(base: ModelSession, adapter: Adapter) -> ModelSession:
    """A session that follows the adapter, over the weights of the base, which is not loaded again.

    Raises:
        ModelError: it does not fit the base.
    """
    found = adapter.checkpoint
    of_run = {} if found is None else {"step": found.step, "run_id": adapter.ref.partition("@")[0]}
    with base.weights.lock:
        if adapter.variant not in base.variants:
            tensors = None if found is None else _peft_names(read_weights(found))
            base.add_adapter(adapter.folder, adapter.variant, tensors=tensors)
        return base.of(adapter.variant, ref=adapter.ref, name=adapter.name, **of_run)  # type: ignore[arg-type]


def _peft_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors as PEFT's file names them: without the name that the adapter had in training."""
    return {re.sub(r"\.default(?=\.|$)", "", name): tensor for name, tensor in weights.items()}


# -- loading ---------------------------------------------------------------------------------------------


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
        run_id=run.run_id,
    )


def _open_fully_tuned(ref: str, run: RunDir, precision: Choice, device: str, tell: Told | None) -> ModelSession:
    """Every weight was trained: the model it began with, filled with the run's own weights."""
    info = find_checkpoint(run, _step(ref))
    session = open_session(run.config_as(FineTuneConfig).model.model, precision=precision, device=device, tell=tell)
    put_weights(read_weights(info), session.model, source=info.path.name)
    session.ref, session.name, session.step = f"{run.run_id}@{info.step}", run.info()["name"], info.step
    session.run_id, session.config = run.run_id, None
    return session


def _open_pretrained(ref: str, entry: ModelEntry, precision: Choice, device: str, tell: Told | None) -> ModelSession:
    folder = _folder(entry)
    place = find_place(folder, entry.name, precision, device)
    tokenizer = HFTokenizer(folder)
    model = load_pretrained(folder, place.precision, device=place.device, name=entry.name, tell=tell)
    return ModelSession(
        ref=ref, name=entry.name, model=model, tokenizer=tokenizer, precision=place.precision, folder=folder
    )


def _folder(entry: ModelEntry) -> Path:
    folder = entry.folder
    if folder is None:
        raise ModelError(f"{entry.name} is not on this machine yet: run `lab models pull {entry.name}`.")
    return folder
