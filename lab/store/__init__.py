"""The record of all runs: DuckDB with one owner, any number of recorders, and readers that never wait long.

Database             the owner's handle; cursor() for each thread or job
DatabaseRecorder     records a run in the owner's process
SegmentRecorder      records a run from any other process
ingest, sweep        take in segments; make statuses true after a crash
queries, curves      one function per question
run_search           finding, filtering and sorting runs; saved: views and queries that are kept
comparison, seeds    what differs between runs, and whether it is more than luck
labels               name, tags, note, notebook, archive, bin
connect_readonly     for scripts, notebooks and the command line, also while the app owns the file
"""

from lab.store.adopt import adopt
from lab.store.comparison import Contrast, Neighbour, config_diff, contrast
from lab.store.console import SqlAnswer, run_sql
from lab.store.cursor import Cursor
from lab.store.curves import series, several
from lab.store.database import Database
from lab.store.queries import (
    Latest,
    checkpoints,
    events,
    latest,
    list_runs,
    metric_info,
    metric_names,
    predictions,
    run_row,
    samples,
)
from lab.store.reading import ReadOnly, connect_readonly, query
from lab.store.recorder import DatabaseRecorder, Recorder, SegmentRecorder
from lab.store.run_search import Condition, RunSearch, choices, find_runs
from lab.store.seeds import seed_groups, seed_spread
from lab.store.segments import ingest
from lab.store.snapshot import serve_snapshots
from lab.store.sweep import ingest_all, sweep

__all__ = [
    "Condition",
    "Contrast",
    "Cursor",
    "Database",
    "DatabaseRecorder",
    "Latest",
    "Neighbour",
    "ReadOnly",
    "Recorder",
    "RunSearch",
    "SegmentRecorder",
    "SqlAnswer",
    "adopt",
    "checkpoints",
    "choices",
    "config_diff",
    "connect_readonly",
    "contrast",
    "events",
    "find_runs",
    "ingest",
    "ingest_all",
    "latest",
    "list_runs",
    "metric_info",
    "metric_names",
    "predictions",
    "query",
    "run_row",
    "run_sql",
    "samples",
    "seed_groups",
    "seed_spread",
    "series",
    "serve_snapshots",
    "several",
    "sweep",
]
