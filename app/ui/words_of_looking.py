"""What the looking pages say again and again: where to read on, what a score means, and how to take data along."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pandas as pd
import streamlit as st

_DOCS = Path(__file__).resolve().parents[2] / "docs" / "concepts"
_TITLES = {
    "attention": "attention",
    "induction-heads": "induction heads",
    "residual-stream": "the residual stream",
    "lenses-and-probes": "lenses, patching and probes",
}


def concept(page: str) -> str:
    """Where it is explained, for the end of a caption."""
    return f"More: docs/concepts/{page}.md"


def read_more(*pages: str) -> None:
    """The explaining pages themselves, to read beside the figures."""
    with st.container(horizontal=True, gap="small"):
        for page in pages:
            with st.popover(f"Read: {_TITLES[page]}", type="tertiary"):
                st.markdown((_DOCS / f"{page}.md").read_text(encoding="utf-8"))


def definitions() -> dict[str, str]:
    """What each figure of a head means."""
    return {
        "induction": "Having read *A B … A*, looks at *B*: the share of attention on what **followed** earlier places "
        "of the same token. It is how a model continues a repeat (Olsson et al. 2022).",
        "previous_token": "The share of attention on the token **just before**. Induction heads build on these.",
        "duplicate_token": "The share of attention on **earlier places of the same token** (Wang et al. 2022).",
        "sink": "The share that rests on the **first token**: heads park there when there is nothing to fetch (Xiao et "
        "al. 2023).",
        "entropy": "How widely attention is spread over the keys it can see: **0** one key gets all, **1** all alike.",
        "distance": "How many **tokens back** it looks on average; 0 is its own place.",
    }


def export(frame: pd.DataFrame | Callable[[], pd.DataFrame], *, name: str, key: str) -> None:
    """The figure's data as CSV or Parquet; the picture is saved by the camera in its corner.

    Args:
        frame: or what makes it, when it is large: called when a button is pressed.
    """

    def made() -> pd.DataFrame:
        return frame() if callable(frame) else frame

    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "CSV", data=lambda: made().to_csv(index=False).encode(), file_name=f"{name}.csv", mime="text/csv", key=key,
            type="tertiary", on_click="ignore",
            help="The numbers of this figure. The camera in its corner saves a PNG.",
        )  # fmt: skip
        st.download_button(
            "Parquet", data=lambda: parquet(made()), file_name=f"{name}.parquet", key=f"{key}_parquet",
            mime="application/vnd.apache.parquet", type="tertiary", on_click="ignore",
            help="The same numbers with their types, for pandas, DuckDB and others.",
        )  # fmt: skip


def parquet(frame: pd.DataFrame) -> bytes:
    """As a Parquet file; columns are named by text, as Parquet wants."""
    buffer = BytesIO()
    frame.rename(columns=str).to_parquet(buffer, index=False)
    return buffer.getvalue()
