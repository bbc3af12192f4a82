"""The row above the list of runs: what to look for, how to sort, and views that are kept.

The search is one value, `RunSearch`. It lives in the widgets, which keep it over page switches, and in the
address, so that a link reopens the same list.
"""

import json
import re
from typing import Any

import streamlit as st

from app.ui import state
from app.ui.actions import attempt
from app.ui.runs_import import draw_import
from lab.config import KINDS, leaves
from lab.errors import StoreError
from lab.store import Condition, RunSearch, choices, metric_info
from lab.store.run_search import OPERATORS, VALUES, Place
from lab.store.saved import forget, save_view, saved_views

SEARCH_KEY = "search"
"""Query parameter: what the search says besides the defaults, as JSON."""

PLACES: dict[Place, str] = {"current": "Current", "archived": "Archived", "deleted": "Bin", "all": "All but the bin"}
COLUMN_NAMES = {
    "created_at": "Created",
    "name": "Name",
    "status": "Status",
    "kind": "Kind",
    "step": "Step",
    "tokens_seen": "Tokens seen",
    "elapsed_s": "Time",
    "n_params": "Parameters",
    "seed": "Seed",
}
"""What the list can be sorted by besides metrics and settings."""

_OFFERED = ("corpus", "tokenizer", "optimizer")
"""Settings whose values in the record are offered; any other can be typed."""
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|=|<|>|\bcontains\b)\s*(.+?)\s*")
_WRITTEN = "search_written"
_FIELDS: dict[str, Any] = {
    "text": "", "status": [], "kind": [], "tags": [], "conditions": [], "place": "current", "sort": "created_at",
    "value": "last", "ascending": False, "metrics": [],
}  # fmt: skip
"""The widgets by the field of the search they stand for, and what each starts with."""


def draw_search() -> RunSearch:
    """Draw the row; returns what it says. A mistake in a condition is said, and the condition left out."""
    follow_address()
    known = state.read(choices)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.text_input(
            "Search", key=_key("text"), persist_state="session", width=230, placeholder="name, note, tag, corpus, id",
            help="Words that all have to occur in a run's name, note, notebook, tags, corpus or id.",
        )  # fmt: skip
        st.multiselect(
            "Status", known["status"], key=_key("status"), persist_state="session", width=190, placeholder="any"
        )
        st.selectbox(
            "Sort by", _sortable(known["metrics"]), key=_key("sort"), persist_state="session", width=210,
            format_func=lambda name: COLUMN_NAMES.get(name, name), on_change=_best_first,
            help="A column, a metric, or a setting. Runs without the value come last.",
        )  # fmt: skip
        if "/" in st.session_state[_key("sort")]:
            st.selectbox(
                "Its value", list(VALUES), key=_key("value"), persist_state="session", width=110,
                help="Best: the lowest value, or the highest where higher is better.",
            )  # fmt: skip
        st.toggle("Ascending", key=_key("ascending"), persist_state="session")
        with st.popover("Filters", type="tertiary"):
            _draw_filters(known)
        with st.popover("Views", type="tertiary"):
            _draw_views()
        draw_import()
    search, mistakes = _said()
    for mistake in mistakes:
        st.warning(mistake)
    st.session_state[_WRITTEN] = written = to_text(search)
    if written != "{}":
        st.query_params[SEARCH_KEY] = written
    elif SEARCH_KEY in st.query_params:
        del st.query_params[SEARCH_KEY]
    return search


def follow_address() -> None:
    """Put what the address asks for into the widgets, where it is another search than the one last written there."""
    for name, start in _FIELDS.items():
        st.session_state.setdefault(_key(name), start)
    asked = st.query_params.get(SEARCH_KEY)
    if asked is None or asked == st.session_state.get(_WRITTEN):
        return
    search = attempt(lambda: from_text(asked))
    if search is not None:
        fill(search)


def fill(search: RunSearch) -> None:
    """Put a search into the widgets. For callbacks, and before they are drawn."""
    for name, value in search.to_json().items():
        st.session_state[_key(name)] = list(value) if isinstance(value, tuple) else value
    st.session_state[_key("conditions")] = [condition_text(condition) for condition in search.conditions]


def clear() -> None:
    """Put every field of the search back. For callbacks."""
    fill(RunSearch())


def to_text(search: RunSearch) -> str:
    """What a search says besides the defaults, for the address."""
    defaults = RunSearch().to_json()
    return json.dumps({name: value for name, value in search.to_json().items() if value != defaults[name]})


def from_text(text: str) -> RunSearch:
    """Read it back.

    Raises:
        StoreError: the address was cut or changed by hand into something that is no search.
    """
    try:
        return RunSearch.from_json(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError("The search in the address cannot be read: was the link cut off?") from error


def parse_condition(text: str) -> Condition:
    """`learning_rate >= 0.001` as a condition.

    Raises:
        StoreError: it is none.
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        signs = ", ".join(OPERATORS)
        raise StoreError(f"{text!r} is no condition: write a setting, one of {signs}, and a value.")
    setting, operator, value = found.groups()
    return Condition(setting, operator, value)  # type: ignore[arg-type]  # one of OPERATORS: the expression says so


def condition_text(condition: Condition) -> str:
    return f"{condition.setting} {condition.operator} {condition.value}"


def _said() -> tuple[RunSearch, list[str]]:
    """The widgets as a search, and the conditions that are none."""
    values: dict[str, Any] = {name: st.session_state[_key(name)] for name in _FIELDS}
    conditions, mistakes = [], []
    for text in values.pop("conditions"):
        try:
            conditions.append(parse_condition(text))
        except StoreError as error:
            mistakes.append(str(error))
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return RunSearch(**plain, conditions=tuple(conditions)), mistakes


def _draw_filters(known: dict[str, list[str]]) -> None:
    st.segmented_control(
        "Where", list(PLACES), key=_key("place"), format_func=PLACES.__getitem__, required=True,
        persist_state="session", help="Archived runs are out of the way; runs in the bin can be restored or purged.",
    )  # fmt: skip
    st.multiselect("Kind", known["kind"], key=_key("kind"), persist_state="session", placeholder="any")
    st.multiselect(
        "Tags", known["tags"], key=_key("tags"), persist_state="session", placeholder="any",
        help="A run must carry all of them.",
    )  # fmt: skip
    typed = st.session_state[_key("conditions")]
    st.multiselect(
        "Settings", list(dict.fromkeys([*state.read(_offers), *typed])), key=_key("conditions"),
        accept_new_options=True, persist_state="session", placeholder="learning_rate >= 0.001",
        help="Choose one, or type a setting, a comparison (=, !=, <, <=, >, >=, contains) and a value.",
    )  # fmt: skip
    st.multiselect(
        "More columns", known["metrics"], key=_key("metrics"), persist_state="session", placeholder="metrics to show",
        help="By the value chosen beside the sorting: last, best, lowest, highest or first.",
    )  # fmt: skip
    st.button("Clear all", on_click=clear, key="find_clear")


def _draw_views() -> None:
    views = attempt(lambda: state.read(saved_views)) or {}
    for name, search in views.items():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(name, key=f"view_{name}", on_click=fill, args=(search,), width="stretch")
            st.button(
                "Forget", key=f"forget_{name}", type="tertiary", on_click=_forget, args=(name,),
                help="Removes the view; runs are not touched.",
            )  # fmt: skip
    if not views:
        st.caption("A view is a search with its sorting, kept under a name.")
    st.text_input("Keep this search as", key="view_name", placeholder="best on shakespeare")
    st.button("Keep", key="view_keep", on_click=_keep)


def _keep() -> None:
    search, _ = _said()
    attempt(lambda: save_view(state.get_engine().database, st.session_state["view_name"], search))
    st.session_state["view_name"] = ""


def _best_first() -> None:
    """A metric is sorted with its best values first, anything else downwards, until the person says otherwise."""
    info = state.read(metric_info).get(st.session_state[_key("sort")])
    st.session_state[_key("ascending")] = info is not None and info["better"] == "lower"


def _forget(name: str) -> None:
    attempt(lambda: forget(state.get_engine().database, "view", name))


def _sortable(metrics: list[str]) -> list[str]:
    known = dict.fromkeys(leaf.name for config in KINDS.values() for leaf in leaves(config))
    settings = [name for name in known if name not in COLUMN_NAMES]
    found = [*COLUMN_NAMES, *metrics, *settings]
    chosen = st.session_state[_key("sort")]
    return found if chosen in found else [*found, chosen]  # a view may sort by what nobody has recorded yet


def _offers(cursor: Any) -> list[str]:
    found = []
    for name in _OFFERED:
        value = f"json_extract_string(config, '$.*.{name}')[1]"
        sql = f"SELECT DISTINCT {value} AS value FROM runs WHERE {value} IS NOT NULL ORDER BY value LIMIT 30"
        found += [f"{name} = {value}" for (value,) in cursor.execute(sql).fetchall()]
    return found


def _key(field: str) -> str:
    return f"find_{field}"
