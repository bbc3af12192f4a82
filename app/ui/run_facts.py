"""What is known of a run besides its curves: expectation and outcome, lineage, checkpoints, settings, versions."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.ui import runs_address, state, words
from app.ui.form_settings import use_settings
from app.ui.messages import plain
from app.ui.navigation import link, pages
from app.ui.open_links import open_links
from lab import store
from lab.config import KINDS, PretrainConfig, leaves
from lab.store.cursor import Cursor
from lab.store.settings import flat_settings


def draw_expected(predictions: pd.DataFrame) -> None:
    """What was expected, and what came."""
    st.markdown("**Expected and came**")
    if predictions.empty:
        st.caption("Nobody guessed. A guess before a run, on the Pretraining form, is how one learns what a knob does.")
        return
    st.dataframe(expected_table(predictions), hide_index=True, height="content")


def expected_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per guess, with a verdict once the outcome is known."""
    return pd.DataFrame(
        {
            "Figure": predictions["metric"],
            "By": predictions["who"].map({"person": "you", "forecast": "the forecast"}).fillna(predictions["who"]),
            "Expected": predictions["predicted"],
            "From": predictions["low"],
            "To": predictions["high"],
            "Came": predictions["actual"],
            "Verdict": [verdict(row) for row in predictions.to_dict("records")],
        }
    )


def verdict(guess: Mapping[str, Any]) -> str:
    """within the range · 0.12 above."""
    actual = guess["actual"]
    if pd.isna(actual):
        return "not known yet"
    off = actual - guess["predicted"]
    said = f"{abs(off):.3g} {'above' if off > 0 else 'below'}"
    if pd.isna(guess["low"]) or pd.isna(guess["high"]):
        return said
    return f"within the range, {said}" if guess["low"] <= actual <= guess["high"] else f"outside the range, {said}"


def draw_lineage(row: Mapping[str, Any]) -> None:
    """Where it comes from and what came of it."""
    st.markdown("**Lineage**")
    line = state.read(lineage, row["run_id"])
    if len(line) == 1:
        st.caption("It began from random numbers, and nothing was forked from it.")
        return
    for depth, one in line:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown("&nbsp;" * 6 * depth + ("└" if depth else ""), width="content")
            if one["run_id"] == row["run_id"]:
                st.markdown(f"**{plain(one['name'])}**", width="content")
            else:
                st.button(
                    one["name"], key=f"lineage_{one['run_id']}", type="tertiary",
                    on_click=runs_address.open_run, args=(one["run_id"],),
                )  # fmt: skip
            at = f"from step {one['parent_step']:,} · " if one["parent_step"] is not None else ""
            loss = f" · validation {words.loss(one['val_loss'])}" if one["val_loss"] is not None else ""
            st.markdown(f":gray[{at}{one['status']}{loss}]", width="content")


def lineage(cursor: Cursor, run_id: str) -> list[tuple[int, dict[str, Any]]]:
    """The family of a run: its oldest ancestor first, each child below its parent, with its depth."""
    sql = """
        WITH RECURSIVE up AS (
            SELECT run_id, parent_run_id FROM runs WHERE run_id = ?
            UNION SELECT r.run_id, r.parent_run_id FROM runs r JOIN up ON r.run_id = up.parent_run_id
        ), down AS (
            SELECT run_id FROM up WHERE parent_run_id IS NULL OR parent_run_id NOT IN (SELECT run_id FROM runs)
            UNION SELECT r.run_id FROM runs r JOIN down ON r.parent_run_id = down.run_id
        )
        SELECT s.run_id, coalesce(s.name, s.run_id) AS name, s.status, s.parent_run_id, s.parent_step, s.val_loss
        FROM all_runs_summary s SEMI JOIN down USING (run_id) ORDER BY s.created_at, s.run_id
    """
    family = {one["run_id"]: one for one in cursor.execute(sql, [run_id]).dicts()}
    ordered: list[tuple[int, dict[str, Any]]] = []

    def add(one: dict[str, Any], depth: int) -> None:
        ordered.append((depth, one))
        for child in family.values():
            if child["parent_run_id"] == one["run_id"]:
                add(child, depth + 1)

    for one in family.values():
        if one["parent_run_id"] not in family:
            add(one, 0)
    return ordered


def draw_checkpoint_list(run_id: str) -> None:
    """The states that are kept, and where to use them."""
    kept = state.read(store.checkpoints, run_id)
    if kept.empty:
        st.caption("No checkpoint is kept.")
        return
    st.dataframe(
        pd.DataFrame(
            {
                "Step": kept["step"],
                "Kind": kept["kind"],
                "Validation": kept["val_loss"],
                "Size": [words.data(size) for size in kept["bytes"]],
                "SHA-256": kept["sha256"],
                "File": kept["path"],
            }
        ),
        hide_index=True,
        height="content",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        steps = list(reversed(kept["step"].tolist()))
        step = st.selectbox(
            "Look inside the state of step", steps, format_func="{:,}".format, key=f"look_{run_id}", width=240,
            help="As it stood then: what its heads attended to, and what it knew.",
        )  # fmt: skip
        open_links(run_id, step)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("To write from one, fork it or delete it:", width="content")
        link("pretraining", "Watch and try it", run=run_id)


def draw_settings(row: Mapping[str, Any]) -> None:
    """Every setting, by group."""
    if row["config"] is None:
        st.caption("It came from another program, which did not tell its settings.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Use these settings",
            key="run_use",
            on_click=use_settings,
            args=(row["run_id"],),
            help="Fills the form on the Pretraining page with them.",
        ):
            st.switch_page(pages()["pretraining"])
    st.dataframe(settings_list(row["config"]), hide_index=True, height=420)


def settings_list(config: Mapping[str, Any]) -> pd.DataFrame:
    """One row per setting; those of a kind or a lab that this one does not know keep their bare names."""
    known = {leaf.name: leaf for leaf in leaves(KINDS.get(config.get("kind", ""), PretrainConfig))}
    rows = []
    for name, value in flat_settings(config).items():
        leaf = known.get(name)
        group, title = (leaf.group, leaf.title) if leaf else ("", name)
        rows.append({"Group": group, "Setting": title, "Name": name, "Value": words.value(value)})
    return pd.DataFrame(rows)


def draw_versions(row: Mapping[str, Any]) -> None:
    """With what, and on what, it ran."""
    facts = {"host": row["host"], "device": row["device"], "process": row["pid"], **(row["versions"] or {})}
    known = {name: str(value) for name, value in facts.items() if value is not None}
    if not known:
        st.caption("Not known.")
        return
    st.dataframe(pd.DataFrame(known.items(), columns=["What", "Version"]), hide_index=True, height="content")
