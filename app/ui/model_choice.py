"""Which model is looked at: chosen once in the sidebar, the same on every page that looks into one.

A choice is kept by name, never by object: in the address, so that a reload or a link opens the same, and in the
session, so that it is there again after a page switch.
"""

from dataclasses import dataclass, replace

import pandas as pd
import streamlit as st

from app.ui import state, words
from app.ui.messages import plain, show_error
from app.ui.model_pull import offer_pull
from app.ui.run_choice import run_labels
from lab.errors import LabError
from lab.models.adapters import base_of_folder, base_of_run, is_adapter_folder, precision_of_run
from lab.models.checkpoints import list_checkpoints
from lab.models.pulled import pulled
from lab.models.registry import REGISTRY, ModelEntry, find_model
from lab.models.shapes import PRECISIONS
from lab.rundir import find_run
from lab.store.looks import runs_with_checkpoints

MODEL_KEY = "model"
"""Query parameter and session key: a run's id, a model's name, a folder, or a hub id."""
STEP_KEY = "step"
"""Query parameter and session key: the checkpoint of the run; absent: its newest state."""
PRECISION_KEY = "precision"
VARIANT_KEY = "variant"
"""Query parameter and session key: whether a fine-tuned model is looked at, or its base."""
VARIANTS = ["Fine-tuned", "Base"]
_PICK, _OTHER_FIELD = "model_pick", "model_other"
_OTHER = "another: a folder, or OWNER/NAME of the hub"
PRECISION_CHOICES = ("auto", *PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model that is on this machine."""

    model: str
    """As it is kept: a run's id, a name, a folder."""
    name: str
    run_id: str | None = None
    step: int | None = None
    steps: tuple[int, ...] = ()
    """Of all its checkpoints."""
    precision: str = "auto"
    base: str | None = None
    """What opens the model that it was fine-tuned from."""
    without_adapter: bool = False
    """Look at that model instead; it is loaded once for both."""

    @property
    def ref(self) -> str:
        """What opens it."""
        if self.without_adapter and self.base is not None:
            return self.base
        return self.model if self.step is None else f"{self.model}@{self.step}"

    @property
    def title(self) -> str:
        if self.without_adapter and self.base is not None:
            return f"{_short(self.base)}, the base"
        return self.name if self.step is None else f"{self.name}, step {self.step:,}"


def choose_model() -> Choice | None:
    """The list in the sidebar; None while what was chosen is not on this machine (the page then offers to pull it)."""
    labels = choices()
    named = st.query_params.get(MODEL_KEY)
    if named is not None and named != st.session_state.get(MODEL_KEY) and STEP_KEY not in st.query_params:
        st.session_state.pop(STEP_KEY, None)  # a link to another model: the step was the other one's
    wanted = _wanted(MODEL_KEY) or next(iter(labels))
    if wanted not in labels:
        labels[wanted] = wanted  # a folder or hub id of one's own, or a run that went
    st.session_state[_PICK] = wanted
    st.selectbox(
        "Model",
        [*labels, _OTHER],
        format_func=lambda choice: labels.get(choice, choice),
        key=_PICK,
        on_change=_picked,
        help="Your runs with a checkpoint, models on this machine, and others that can be pulled.",
    )
    if st.session_state.get(_IS_OTHER):
        st.text_input(
            "Folder or hub id", key=_OTHER_FIELD, on_change=_typed, placeholder="/path/to/model or OWNER/NAME",
            help="A folder with config.json and *.safetensors, as save_pretrained writes it.",
        )  # fmt: skip
    keep_address(wanted)
    if wanted in set(runs()["run_id"]):
        return _run_choice(wanted)
    return _model_choice(wanted)


_IS_OTHER = "model_is_other"


def choices(*, only_here: bool = False) -> dict[str, str]:
    """What there is to choose, by what is kept, with its label: runs, models that are here, models to pull."""
    here = {note.name: note.name for note in pulled()}
    there = {} if only_here else {entry.name: entry.name for entry in REGISTRY if entry.name not in here}
    return run_labels(runs()) | here | there


def runs() -> pd.DataFrame:
    return state.read(runs_with_checkpoints)


def keep_address(model: str) -> None:
    """What was chosen goes into the address, also after the navigation emptied it."""
    st.session_state[MODEL_KEY] = model
    kept = {name: st.session_state.get(name) for name in (MODEL_KEY, STEP_KEY, PRECISION_KEY, VARIANT_KEY)}
    for name, value in kept.items():
        if value is not None and st.query_params.get(name) != str(value):
            st.query_params[name] = str(value)


def other_choice(model: str, step: int | None) -> Choice | None:
    """Another model beside the chosen one; None when it is not on this machine.

    Args:
        step: of a run's checkpoint; its newest when left out.
    """
    run_id, _, at = model.partition("@")  # a base may be a run at a step
    if run_id in set(runs()["run_id"]):
        return _at_step(run_id, at or (None if step is None else str(step)))
    if is_adapter_folder(model):
        return Choice(model=model, name=_short(model), precision=_precision(), base=base_of_folder(model))
    entry = find_model(model)
    return None if entry.folder is None else Choice(model=model, name=_short(model), precision=_precision())


def _run_choice(run_id: str) -> Choice | None:
    choice = _at_step(run_id, _wanted(STEP_KEY))
    return choice if choice is None or choice.base is None else _tuned_choice(choice)


def _tuned_choice(choice: Choice) -> Choice | None:
    """A model that was fine-tuned: in which precision, and with what it learnt or without."""
    assert choice.base is not None
    is_ours = choice.base.partition("@")[0] in set(runs()["run_id"])  # exact, and small
    if not is_ours and not _choose_precision(choice.base):
        return None
    st.session_state["variant_pick"] = _wanted(VARIANT_KEY) or VARIANTS[0]
    if st.session_state["variant_pick"] not in VARIANTS:
        st.session_state["variant_pick"] = VARIANTS[0]
    variant = st.segmented_control(
        "Fine-tuned or base", VARIANTS, key="variant_pick", required=True,
        on_change=lambda: _keep(VARIANT_KEY, st.session_state["variant_pick"]),
        help="What it learnt lies beside the base's weights, so both are there from one load: switch and compare.",
    )  # fmt: skip
    return replace(choice, precision=_trained_precision(choice.run_id), without_adapter=variant == VARIANTS[1])


def _at_step(run_id: str, wanted: str | None) -> Choice | None:
    try:
        run = find_run(run_id)
        steps = tuple(info.step for info in list_checkpoints(run))
        base = base_of_run(run)
    except LabError as error:
        show_error(error)
        return None
    if not steps:
        st.info("This run has no checkpoint any more: choose another.")
        return None
    step = int(wanted) if wanted is not None and wanted.isdecimal() and int(wanted) in steps else steps[-1]
    if wanted is not None and str(step) != wanted:
        st.caption(f"Step {plain(wanted)} is not kept any more: the newest, {step:,}, is shown.")
        st.session_state[STEP_KEY] = step
    precision = "auto" if base is None else _trained_precision(run_id)
    name = run.info()["name"]
    return Choice(model=run_id, name=name, run_id=run_id, step=step, steps=steps, base=base, precision=precision)


def _model_choice(text: str) -> Choice | None:
    try:
        base = base_of_folder(text) if is_adapter_folder(text) else None
    except LabError as error:
        show_error(error)
        return None
    if base is not None:
        return _tuned_choice(Choice(model=text, name=_short(text), base=base))
    return Choice(model=text, name=_short(text), precision=_precision()) if _choose_precision(text) else None


def _choose_precision(model: str) -> bool:
    """Draw the choice for a model that was not trained here; False where there is none to draw: the model is unknown,
    or not on this machine (the page then offers to pull it)."""
    try:
        entry = find_model(model)
    except LabError as error:
        show_error(error)
        return False
    if entry.folder is None:
        st.session_state[_TO_PULL] = entry
        return False
    st.session_state["precision_pick"] = _precision()
    st.selectbox(
        "Precision", PRECISION_CHOICES, key="precision_pick", on_change=_precision_picked, help=_precision_help(entry)
    )
    return True


def _precision() -> str:
    kept = _wanted(PRECISION_KEY)
    return kept if kept in PRECISION_CHOICES else "auto"


def _trained_precision(run_id: str | None) -> str:
    """What was chosen; "auto" of a run that learnt beside 4 or 8 bits is these, for the base too: it is loaded once."""
    chosen = _precision()
    return precision_of_run(find_run(run_id)) if chosen == "auto" and run_id is not None else chosen


def _short(model: str) -> str:
    """The last part of a path or hub id."""
    return model.rstrip("/").rsplit("/", 1)[-1]


_TO_PULL = "model_to_pull"


def draw_missing() -> None:
    """In the page, when there is no choice: how to get the model."""
    entry = st.session_state.pop(_TO_PULL, None)
    if entry is not None:
        offer_pull(entry)


def choose_step(choice: Choice) -> None:
    """A slider over the run's checkpoints; nothing for a run with one, or a model that was not trained here."""
    if len(choice.steps) < 2:
        return
    key = "step_slider"
    st.session_state[key] = choice.step
    st.select_slider(
        "Checkpoint (step of training)", list(choice.steps), format_func=lambda step: f"{step:,}", key=key,
        on_change=lambda: _keep(STEP_KEY, st.session_state[key]),
        help="The same text, read by the states that this run kept. Set Checkpoint every under Pretraining, Advanced, "
        "to keep more of them.",
    )  # fmt: skip


def _precision_help(entry: ModelEntry) -> str:
    sizes = " · ".join(f"{name} {words.data(count)}" for name, count in entry.memory.items())
    return plain(
        "auto: exact (fp32) where the model is small, else the best that fits. Fewer bits take less memory and change "
        "the numbers a little. " + (f"Weights: {sizes}." if sizes else "")
    )


def _wanted(name: str) -> str | None:
    """From the address, else from the session."""
    value = st.query_params.get(name)
    if value is None:
        value = st.session_state.get(name)
    else:
        st.session_state[name] = value
    return None if value is None else str(value)


def _picked() -> None:
    chosen = st.session_state[_PICK]
    st.session_state[_IS_OTHER] = chosen == _OTHER
    if chosen != _OTHER:
        _choose(chosen)


def _typed() -> None:
    if st.session_state[_OTHER_FIELD].strip():
        st.session_state[_IS_OTHER] = False
        _choose(st.session_state[_OTHER_FIELD].strip())


def _choose(model: str) -> None:
    _keep(MODEL_KEY, model)
    st.session_state.pop(STEP_KEY, None)
    st.query_params.pop(STEP_KEY, None)


def _precision_picked() -> None:
    _keep(PRECISION_KEY, st.session_state["precision_pick"])


def _keep(name: str, value: object) -> None:
    st.session_state[name] = value
    st.query_params[name] = str(value)
