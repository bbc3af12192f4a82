"""The list of runs."""

from collections.abc import Callable, Collection, Sequence

import pandas as pd
import streamlit as st

from app.ui import words

COLUMNS = ("Run", "Status", "Step", "Validation", "Bits per byte", "Parameters", "Tokens/s", "Time", "Created", "Tags")
COLUMN_CONFIG = {
    "Run": st.column_config.TextColumn("Run", width="medium"),
    "Validation": st.column_config.NumberColumn("Validation", format="%.3f", help="Loss in nats per token."),
    "Bits per byte": st.column_config.NumberColumn(
        "Bits per byte", format="%.3f", help="The same loss per byte of text: compares across tokenizers."
    ),
    "Tokens/s": st.column_config.NumberColumn("Tokens/s", format="localized"),
}


def run_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs as a person reads them, one row each, in the order given."""
    return pd.DataFrame(
        {
            "Run": runs["name"],
            "Status": runs["status"],
            "Step": [steps(row) for row in runs.to_dict("records")],
            "Validation": runs["val_loss"],
            "Bits per byte": runs["bits_per_byte"],
            "Parameters": [words.count(n) if pd.notna(n) else "" for n in runs["n_params"]],
            "Tokens/s": runs["tokens_per_second"].round(),
            "Time": [words.duration(s) if pd.notna(s) else "" for s in runs["elapsed_s"]],
            "Created": [words.ago(at.to_pydatetime()) if pd.notna(at) else "" for at in runs["created_at"]],
            "Tags": [list(tags) if tags is not None else [] for tags in runs["tags"]],
        },
        columns=list(COLUMNS),
    )


def steps(row: dict[str, object]) -> str:
    """1,240 of 2,000."""
    if pd.isna(row["step"]):
        return ""
    done = f"{int(row['step']):,}"  # type: ignore[call-overload]
    return done if pd.isna(row["total_steps"]) else f"{done} of {int(row['total_steps']):,}"  # type: ignore[call-overload]


def draw_table(
    runs: pd.DataFrame,
    *,
    key: str,
    choose: bool = False,
    marked: Collection[str] = (),
    on_mark: Callable[[], None] | None = None,
    metrics: Sequence[str] = (),
) -> list[str]:
    """The list; returns the ids of the rows that the person marked.

    Args:
        marked: ids that are marked when the list first appears under this key.
        on_mark: called when a mark is set or taken away.
        metrics: columns of `runs` to show besides.
    """
    table = run_table(runs)
    for name in dict.fromkeys(metrics):
        table[name] = runs[name]
    config = {**COLUMN_CONFIG, **{name: st.column_config.NumberColumn(name, format="%.4g") for name in metrics}}
    if not choose:
        st.dataframe(table, hide_index=True, column_config=config, key=key)
        return []
    places = [place for place, run_id in enumerate(runs["run_id"]) if run_id in marked]
    chosen = st.dataframe(
        table,
        hide_index=True,
        column_config=config,
        key=key,
        on_select=on_mark or "rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": places}},
    )
    return [runs["run_id"].iloc[place] for place in chosen.selection.rows if place < len(runs)]
