"""The table of final figures, with the spread that luck alone makes."""

from collections.abc import Mapping

import pandas as pd

from app.ui import words
from lab.store import find_runs, seed_spread
from lab.store.cursor import Cursor
from lab.store.run_search import RunSearch, Value


def figures_table(cursor: Cursor, names: Mapping[str, str], metric: str, value: Value) -> pd.DataFrame:
    """Best first: what each run came to, and whether its distance from the best is more than seed noise.

    Args:
        names: the name to show by run id.
    """
    spread = seed_spread(cursor, list(names), metric, value)
    if spread.empty:
        return spread
    about = find_runs(cursor, RunSearch(place="all")).set_index("run_id")
    rows = about.reindex(spread["run_id"])
    return pd.DataFrame(
        {
            "Run": [names[run_id] for run_id in spread["run_id"]],
            "Value": spread["value"],
            "Verdict": spread["verdict"],
            "Seeds": spread["n"],
            "Mean": spread["mean"].where(spread["n"] > 1),
            "Spread": spread["sd"],
            "Step": rows["step"].to_numpy(),
            "Parameters": [words.count(n) if pd.notna(n) else "" for n in rows["n_params"]],
            "Time": [words.duration(s) if pd.notna(s) else "" for s in rows["elapsed_s"]],
        }
    )
