"""The form of the Fine-tuning page: model, data set, method, budget, and Start."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from app.ui import state, words
from app.ui.budget import BUDGETS
from app.ui.finetuning_memory import draw_verdict
from app.ui.finetuning_preview import preview_of
from app.ui.finetuning_settings import BUDGET, FORK_KEY, end_fork, form_values
from app.ui.form_start import draw_fork_notice, draw_start
from app.ui.forms import Form
from app.ui.messages import plain, sentences, show_mistakes
from app.ui.model_choice import choices
from app.ui.pretraining_form import draw_fields
from lab.config import FineTuneConfig, build_finetune
from lab.errors import ConfigError, LabError
from lab.finetuning import fast
from lab.finetuning.rows import BUNDLED, add_dataset, dataset_names
from lab.models.registry import ModelEntry, find_model
from lab.sessions.opening import run_of
from lab.store.cursor import Cursor

FIRST_MODEL = "smollm2-135m"
_OPEN, _MISTAKES = "ft_upload_open", "ft_start_mistakes"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What Start is asked to do."""

    config: FineTuneConfig
    name: str
    parent: tuple[str, int] | None
    """Run and step that a fork goes on from."""


def draw_form(form: Form, *, busy: bool, start: Callable[[Request], None]) -> FineTuneConfig | None:
    """Draw the whole form in the sidebar.

    Args:
        busy: something is running, so that Start puts the run in the queue.
        start: called with the request when the person presses Start.

    Returns:
        What the form says; None while it has mistakes.
    """
    basics, go, summary, folds = (st.container(gap="xsmall") for _ in range(4))
    with basics:
        draw_fork_notice(
            FORK_KEY,
            stays="model, method and the shape of the adapter",
            instead="Start from the base model instead",
            end=end_fork,
        )
        _draw_basics(form)
    with folds:
        _draw_folds(form)
        name = st.text_input("Name of the run", key="ft_run_name", persist_state="session", placeholder="made for you")
    config, mistakes = _checked(form)
    is_here = config is not None and missing_model(config) is None
    if config is not None:
        with summary:
            st.caption(_summary(config))
            if is_here:
                draw_verdict(config)
    with go:
        show_mistakes([*mistakes, *st.session_state.pop(_MISTAKES, [])])
        if config is not None and not is_here:
            st.caption(f"{plain(config.model.model)} is not on this machine yet: get it on the right, then start.")
        draw_start(
            key="ft_start",
            busy=busy,
            is_fork=FORK_KEY in st.session_state,
            disabled=not is_here,
            on_click=_start,
            args=(start, config, name),
        )
    return config


def dataset_label(name: str) -> str:
    """A data set in the list: what it teaches; a file as it is."""
    return next((one.title for one in BUNDLED if one.name == name), name)


# -- inside -----------------------------------------------------------------------------------------------


def _draw_basics(form: Form) -> None:
    tuned = state.read(finetuned)
    models = {ref: label for ref, label in choices().items() if ref not in tuned}
    # what is chosen may be a folder of one's own, or a file: it is an option, too
    names = list(dict.fromkeys([FIRST_MODEL, *models, st.session_state.get(form.key("model"), FIRST_MODEL)]))
    form.field("model", options=names, naming=lambda ref: models.get(ref, ref))
    chosen = st.session_state.get(form.key("dataset"), form.defaults["dataset"])
    form.field("dataset", options=list(dict.fromkeys([*dataset_names(), chosen])), naming=dataset_label)
    _upload(form.key("dataset"))
    left, right = st.columns(2)
    with left:
        form.field("method")
        BUDGET.draw_choice(form)
        form.field("batch_size")
        form.field("seed")
    with right:
        form.field("rank")
        BUDGET.draw_value(form)
        form.field("learning_rate")
        form.field("max_length")


def finetuned(cursor: Cursor) -> set[str]:
    """Runs that are fine-tunings themselves, so that none can begin with them."""
    return {run_id for (run_id,) in cursor.execute("SELECT run_id FROM runs WHERE kind = 'finetune'").fetchall()}


def missing_model(config: FineTuneConfig) -> ModelEntry | None:
    """The model of the config, when it is known but not on this machine."""
    try:
        if run_of(config.model.model) is not None:
            return None
        entry = find_model(config.model.model)
    except LabError:
        return None
    return entry if entry.folder is None else None


def _draw_folds(form: Form) -> None:
    with st.expander("Advanced"):
        for group, names in form.groups(without=tuple(BUDGETS)).items():
            st.markdown(f"**{group}**")
            draw_fields(form, names)
        reason = fast.why_not()
        if reason:
            st.caption(f"Mode: {plain(reason)}")


def _checked(form: Form) -> tuple[FineTuneConfig | None, list[str]]:
    try:
        return build_finetune(form_values(form)), []
    except ConfigError as error:
        return None, error.mistakes


def _summary(config: FineTuneConfig) -> str:
    train = config.train
    lines = [f"**Effective batch** {words.count(config.sequences_per_step)} rows"]
    if config.has_adapter:
        root = "√rank" if config.model.rslora else "rank"
        scale = config.model.alpha / (config.model.rank**0.5 if config.model.rslora else config.model.rank)
        lines.append(f"**Adapter's scale** alpha / {root} = {scale:.3g}")
    if train.max_steps is not None:
        lines.append(f"**Reads** {words.count(train.max_steps * config.sequences_per_step)} rows in all")
    return "  \n".join(lines)


def _upload(field_key: str) -> None:
    with st.popover("Use rows of your own", type="tertiary", key=_OPEN, on_change="rerun"):
        st.caption(
            "jsonl, json, csv or parquet with instruction and output, prompt and completion, or messages; other column "
            "names can be mapped under Advanced. The file stays on this machine."
        )
        file = st.file_uploader("File", type=["jsonl", "json", "csv", "parquet"], key="ft_file")
        st.button(
            "Add and choose it",
            disabled=file is None,
            key="ft_add",
            on_click=_add,
            args=(file.name if file else "", file.getvalue() if file else b"", field_key),
        )
        show_mistakes(st.session_state.pop("ft_add_mistakes", []))


def _add(name: str, content: bytes, field_key: str) -> None:
    try:
        st.session_state[field_key] = add_dataset(name, content)
    except LabError as error:
        st.session_state["ft_add_mistakes"] = sentences(error)
        return
    st.session_state[_OPEN] = False


def refuse_broken(config: FineTuneConfig) -> None:
    """
    Raises:
        LabError: the rows cannot be trained on; every kind of mistake is one sentence.
    """
    mistakes = preview_of(config).mistakes
    if mistakes:
        raise ConfigError(mistakes)


def _start(start: Callable[[Request], None], config: FineTuneConfig, name: str) -> None:
    short = config.data.dataset.rsplit("/", 1)[-1]
    model = config.model.model.rsplit("/", 1)[-1]
    parent = st.session_state.get(FORK_KEY)
    try:
        refuse_broken(config)  # before there is a run
        title = name.strip() or ("" if parent else f"{model} on {short}")
        start(Request(config=config, name=title, parent=parent))
    except LabError as error:
        st.session_state[_MISTAKES] = sentences(error)
        return
    end_fork()
    st.session_state["ft_run_name"] = ""
