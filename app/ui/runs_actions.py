"""What can be done with the marked runs: open, compare, tag, archive, delete and take back, purge."""

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from app.ui import runs_address, state, words
from app.ui.actions import attempt, draw_actions
from app.ui.charts import told_apart
from app.ui.messages import plain
from app.ui.run_head import live_status
from lab.store import labels
from lab.store.comparison import MOST
from lab.store.cursor import Cursor

_UNDO = "runs_put_away"
"""Session key: the runs that were put away last, and how to take it back."""

Mark = Callable[[Sequence[str]], None]


def draw_marked(marks: Sequence[str], place: str, *, again: Mark) -> None:
    """The marked runs by name, and buttons.

    Args:
        place: where the list looks: the bin has other buttons.
        again: sets the marks anew.
    """
    known = state.read(_names, marks)
    marks = [run_id for run_id in marks if run_id in known]
    if not marks:
        return
    names = told_apart({run_id: known[run_id] for run_id in marks})
    pressed = False
    with st.container(horizontal=True, vertical_alignment="center", gap="small", border=True, key="marked_bar"):
        shown = ", ".join(plain(name) for name in list(names.values())[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        st.markdown(f"**{len(marks)} marked:** {shown}{more}", width="content")
        if len(marks) == 1:
            pressed |= st.button(
                "Open", key="marked_open", type="primary", on_click=runs_address.open_run, args=(marks[0],)
            )
            live = live_status(marks[0])
            if live is not None:
                draw_actions(marks[0], live.status, place="marked", quiet=True)
        elif len(marks) <= MOST:
            pressed |= st.button(
                f"Compare {len(marks)}", key="marked_compare", type="primary",
                on_click=runs_address.compare, args=(marks,),
            )  # fmt: skip
        else:
            st.markdown(f":gray[at most {MOST} can be compared]", width="content")
        pressed |= _draw_put_away(marks, place, again)
        pressed |= st.button("Clear", key="marked_clear", type="tertiary", on_click=again, args=([],))
    if pressed:
        st.rerun()


def draw_undo() -> None:
    """One line that takes back the last deletion or archiving, until the next one."""
    done = st.session_state.get(_UNDO)
    if not done:
        return
    verb, run_ids = done
    with st.container(horizontal=True, vertical_alignment="center"):
        what = f"{len(run_ids)} run{'s' if len(run_ids) != 1 else ''}"
        st.markdown(f":gray[{what} {verb}.]", width="content")
        if st.button("Undo", key="runs_undo", type="tertiary", on_click=_undo):
            st.rerun()


def _draw_put_away(marks: Sequence[str], place: str, again: Mark) -> bool:
    if place == "deleted":
        pressed = st.button("Restore", key="marked_restore", on_click=_each, args=(labels.restore, marks, again))
        with st.popover("Purge", type="tertiary"):
            count = f"{len(marks)} run{'s' if len(marks) != 1 else ''}"
            st.markdown(f"Delete {count} for good: folders, checkpoints and rows? Nothing can bring them back.")
            pressed |= st.button("Purge for good", key="marked_purge", on_click=_purge, args=(marks, again))
        return pressed
    with st.popover("Tag", type="tertiary"):
        st.text_input("Tags to add, with commas", key="marked_tags", placeholder="baseline, lr sweep")
        pressed = st.button("Add", key="marked_tag_add", on_click=_tag, args=(marks,))
    if place == "archived":
        pressed |= st.button(
            "Take out of the archive", key="marked_unarchive", type="tertiary",
            on_click=_each, args=(labels.unarchive, marks, again),
        )  # fmt: skip
    else:
        pressed |= st.button(
            "Archive", key="marked_archive", type="tertiary",
            on_click=_put_away, args=("archived", labels.archive, marks, again),
            help="Out of this list; SQL and comparisons still know it. Filters > Archived shows it.",
        )  # fmt: skip
    return pressed | st.button(
        "Delete", key="marked_delete", type="tertiary",
        on_click=_put_away, args=("put into the bin", labels.delete, marks, again),
        help="Into the bin, with undo. Filters > Bin restores or purges.",
    )  # fmt: skip


def _put_away(verb: str, how: Callable[..., None], run_ids: Sequence[str], again: Mark) -> None:
    done = _done(how, run_ids)
    if done:
        st.session_state[_UNDO] = (verb, done)
    again([run_id for run_id in run_ids if run_id not in done])


def _undo() -> None:
    verb, run_ids = st.session_state.pop(_UNDO)
    _done(labels.unarchive if verb == "archived" else labels.restore, run_ids)


def _each(how: Callable[..., None], run_ids: Sequence[str], again: Mark) -> None:
    again([run_id for run_id in run_ids if run_id not in _done(how, run_ids)])


def _done(how: Callable[..., None], run_ids: Sequence[str]) -> list[str]:
    """Do it to each run; returns those that did not refuse."""
    database = state.get_engine().database

    def one(run_id: str) -> bool:
        how(database, run_id)
        return True

    return [run_id for run_id in run_ids if attempt(partial(one, run_id))]


def _purge(run_ids: Sequence[str], again: Mark) -> None:
    database = state.get_engine().database
    freed = [attempt(partial(labels.purge, database, run_id)) for run_id in run_ids]
    st.session_state.pop(_UNDO, None)
    again([run_id for run_id, size in zip(run_ids, freed, strict=True) if size is None])
    st.toast(f"{words.data(sum(size or 0 for size in freed))} of disk space came free.")


def _tag(run_ids: Sequence[str]) -> None:
    new = [tag for tag in st.session_state["marked_tags"].split(",") if tag.strip()]
    there = state.read(_tags, run_ids)
    database = state.get_engine().database
    for run_id in run_ids:
        attempt(partial(labels.set_tags, database, run_id, [*there.get(run_id, []), *new]))
    st.session_state["marked_tags"] = ""


def _names(cursor: Cursor, run_ids: Sequence[str]) -> dict[str, str]:
    sql = "SELECT run_id, coalesce(name, run_id) FROM runs WHERE list_contains(?, run_id)"
    return dict(cursor.execute(sql, [list(run_ids)]).fetchall())


def _tags(cursor: Cursor, run_ids: Sequence[str]) -> dict[str, list[str]]:
    sql = "SELECT run_id, tags FROM runs WHERE list_contains(?, run_id) AND tags IS NOT NULL"
    return dict(cursor.execute(sql, [list(run_ids)]).fetchall())


def names_of(run_ids: Sequence[str]) -> dict[str, str]:
    """The name to show by run id, in the order given, told apart where two are alike; unknown ids are left out."""
    known = state.read(_names, run_ids)
    return told_apart({run_id: known[run_id] for run_id in run_ids if run_id in known})
