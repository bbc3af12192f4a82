"""The tables of the record: every column once, with its SQL type.

Migrations create them, recorders and segments fill them, and nobody else spells out a column list.
"""

SCHEMA: dict[str, dict[str, str]] = {
    "runs": {
        "run_id": "VARCHAR PRIMARY KEY",
        "name": "VARCHAR",
        "kind": "VARCHAR",  # pretrain, finetune, experiment
        "status": "VARCHAR",  # queued, running, paused, finished, stopped, failed, interrupted
        "queue_pos": "INTEGER",
        "config": "JSON",
        "parent_run_id": "VARCHAR",
        "parent_step": "BIGINT",
        "tags": "VARCHAR[]",
        "note": "VARCHAR",
        "seed": "BIGINT",
        "device": "VARCHAR",
        "host": "VARCHAR",
        "n_params": "BIGINT",
        "n_trainable": "BIGINT",
        "versions": "JSON",
        "total_steps": "BIGINT",  # the budget as a number of steps, once it is known
        "created_at": "TIMESTAMPTZ",
        "started_at": "TIMESTAMPTZ",
        "ended_at": "TIMESTAMPTZ",
        "pid": "BIGINT",
        "error": "VARCHAR",  # one sentence; the traceback lies in the run's folder
        "deleted_at": "TIMESTAMPTZ",  # set: in the bin, hidden from lists, restorable
        "archived_at": "TIMESTAMPTZ",  # set: out of the way, but neither hidden from SQL nor about to go
        "notebook": "VARCHAR",  # what a person writes about the run, Markdown; `note` is the line beside its name
        "summed_at": "TIMESTAMPTZ",  # when `run_totals` was filled; NULL: its metrics are summed up at each look
    },
    # Long rows without an index: a new metric needs no migration, and an index would double the cost of a write.
    "metrics": {
        "run_id": "VARCHAR",
        "step": "BIGINT",
        "tokens_seen": "BIGINT",
        "elapsed_s": "DOUBLE",
        "name": "VARCHAR",
        "value": "DOUBLE",
    },
    "metric_info": {
        "name": "VARCHAR PRIMARY KEY",
        "unit": "VARCHAR",
        "better": "VARCHAR",  # lower, higher, or NULL where neither is
        "description": "VARCHAR",
    },
    "samples": {
        "run_id": "VARCHAR",
        "step": "BIGINT",
        "prompt": "VARCHAR",
        "text": "VARCHAR",
        "seed": "BIGINT",
        "sampling": "JSON",
    },
    "events": {
        "run_id": "VARCHAR",  # NULL: it concerns the whole lab
        "step": "BIGINT",
        "time": "TIMESTAMPTZ",
        "level": "VARCHAR",  # info, warning, error
        "kind": "VARCHAR",
        "message": "VARCHAR",
    },
    "checkpoints": {
        "run_id": "VARCHAR",
        "step": "BIGINT",
        "path": "VARCHAR",
        "bytes": "BIGINT",
        "sha256": "VARCHAR",
        "val_loss": "DOUBLE",
        "kind": "VARCHAR",  # final, kept, resume
    },
    "predictions": {
        "run_id": "VARCHAR",
        "metric": "VARCHAR",
        "predicted": "DOUBLE",
        "low": "DOUBLE",
        "high": "DOUBLE",
        "made_at": "TIMESTAMPTZ",
        "actual": "DOUBLE",
        "who": "VARCHAR",  # person, forecast
    },
    # One row per run and metric, written when a run ends, so that a list of runs need not sum up all metrics.
    "run_totals": {
        "run_id": "VARCHAR",
        "name": "VARCHAR",
        "rows": "BIGINT",
        "nonfinite": "BIGINT",  # how many of them are NaN or infinite
        "first_step": "BIGINT",
        "first_value": "DOUBLE",
        "last_step": "BIGINT",
        "last_value": "DOUBLE",
        "lowest": "DOUBLE",
        "lowest_step": "BIGINT",
        "highest": "DOUBLE",
        "highest_step": "BIGINT",
        "tokens_seen": "BIGINT",
        "elapsed_s": "DOUBLE",
    },
    # What was seen inside models, as long rows; tensors never go into the record.
    "head_stats": {
        "run_id": "VARCHAR",  # NULL: a model that was not trained here
        "model": "VARCHAR",  # what opens it again; NULL where training itself looked
        "step": "BIGINT",
        "text": "VARCHAR",  # what was read: the same text compares
        "layer": "INTEGER",
        "head": "INTEGER",
        "name": "VARCHAR",  # induction, previous_token, duplicate_token, sink, entropy, distance
        "value": "DOUBLE",
    },
    "layer_stats": {
        "run_id": "VARCHAR",
        "model": "VARCHAR",
        "step": "BIGINT",
        "text": "VARCHAR",
        "layer": "INTEGER",
        "point": "VARCHAR",  # pre_attn, post_attn, post_ffn, delta_attn, delta_ffn; of an adapter the part of the block
        "name": "VARCHAR",  # length; of the deltas also relative, cosine, turned; of an adapter norm, relative, …
        "value": "DOUBLE",
    },
    # What a person keeps: views of the Runs page, queries. `content` is JSON for views, SQL for queries.
    "saved": {
        "kind": "VARCHAR",
        "name": "VARCHAR",
        "content": "VARCHAR",
        "saved_at": "TIMESTAMPTZ",
    },
    "sql_history": {
        "asked_at": "TIMESTAMPTZ",
        "sql": "VARCHAR",
        "seconds": "DOUBLE",
        "rows": "BIGINT",
        "error": "VARCHAR",
    },
    # Named by content: a segment that comes a second time, under whatever name, is not taken twice.
    "segments_ingested": {
        "segment": "VARCHAR",
        "sha256": "VARCHAR",
        "rows": "BIGINT",
        "at": "TIMESTAMPTZ",
    },
}

RUN_TABLES = ("metrics", "samples", "events", "checkpoints", "predictions", "head_stats", "layer_stats")
"""Tables that a recorder appends to: each row belongs to one run."""

EVENTS_OF_A_STEP = ("checkpoint", "resume_state", "warning")
"""Events that are about what a step made. They go when the step is rolled back; "paused", "interrupted" and the
other events of the run's own life happened all the same, and stay."""


LIVE = ("running", "paused")
"""Statuses of a run that a process is recording, or was until it died."""


def columns(table: str) -> list[str]:
    return list(SCHEMA[table])


def column_type(table: str, column: str) -> str:
    """The SQL type without its constraint."""
    return SCHEMA[table][column].removesuffix(" PRIMARY KEY")


def create_table(table: str) -> str:
    """The statement that makes the table."""
    listed = ", ".join(f'"{name}" {kind}' for name, kind in SCHEMA[table].items())
    return f"CREATE TABLE {table} ({listed})"
