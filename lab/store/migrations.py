"""Numbered changes of the schema: plain functions, each run once, in one transaction with its record.

A migration that has been released is never edited: a later one corrects it. So each spells out its SQL here and
does not follow `tables.py`, which says how the tables look today; a test holds the two against each other.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from lab.errors import StoreError
from lab.store.cursor import Cursor
from lab.store.first_schema import FIRST_TABLES

METRIC_INFO = [
    ("train/loss", "nats per token", "lower", "How surprised the model is by the next token of the text it trains on."),
    ("val/loss", "nats per token", "lower", "The same on text it never trains on: what it has really learned."),
    ("val/perplexity", "tokens", "lower", "e to the validation loss: as if choosing among this many tokens."),
    ("val/bits_per_byte", "bits per byte", "lower", "Validation loss per byte of text: comparable across tokenizers."),
    ("train/learning_rate", "", None, "Size of the update at this step, after warm-up and decay."),
    ("train/grad_norm", "", None, "Length of the gradient before clipping: spikes tell of odd batches."),
    ("train/tokens_per_second", "tokens per second", "higher", "How fast the text goes through, training only."),
    ("train/mfu", "share", "higher", "Share of this machine's measured matrix-product speed that training reaches."),
    ("system/memory_gib", "GiB", "lower", "Peak memory of the training process so far."),
]  # fmt: skip

FORGETTING_INFO = [
    ("forget/loss", "nats per token", "lower", "Loss on an old story that fine-tuning never shows: what it forgot."),
    ("forget/accuracy", "share", "higher", "Simple questions on other matters answered rightly; guessing: 0.25."),
]


def create_the_record(cursor: Cursor) -> None:
    for statement in FIRST_TABLES:
        cursor.execute(statement)
    for row in METRIC_INFO:
        cursor.execute("INSERT INTO metric_info VALUES (?, ?, ?, ?)", row)


def sum_up_runs_that_ended(cursor: Cursor) -> None:
    """The table that `totals.sum_up` fills, for older runs at the first opening after this."""
    cursor.execute("ALTER TABLE runs ADD COLUMN summed_at TIMESTAMPTZ")
    cursor.execute(
        """
        CREATE TABLE run_totals (
            run_id VARCHAR, name VARCHAR, rows BIGINT, nonfinite BIGINT, first_step BIGINT, first_value DOUBLE,
            last_step BIGINT, last_value DOUBLE, lowest DOUBLE, lowest_step BIGINT, highest DOUBLE,
            highest_step BIGINT, tokens_seen BIGINT, elapsed_s DOUBLE
        )
        """
    )


def keep_what_people_write(cursor: Cursor) -> None:
    cursor.execute("ALTER TABLE runs ADD COLUMN archived_at TIMESTAMPTZ")
    cursor.execute("ALTER TABLE runs ADD COLUMN notebook VARCHAR")
    cursor.execute("CREATE TABLE saved (kind VARCHAR, name VARCHAR, content VARCHAR, saved_at TIMESTAMPTZ)")
    cursor.execute(
        "CREATE TABLE sql_history (asked_at TIMESTAMPTZ, sql VARCHAR, seconds DOUBLE, rows BIGINT, error VARCHAR)"
    )


def keep_what_was_seen_inside(cursor: Cursor) -> None:
    for table, column in (("head_stats", "head INTEGER"), ("layer_stats", "point VARCHAR")):
        cursor.execute(
            f"""
            CREATE TABLE {table} (
                run_id VARCHAR, model VARCHAR, step BIGINT, text VARCHAR, layer INTEGER, {column}, name VARCHAR,
                value DOUBLE
            )
            """
        )


def say_what_forgetting_is(cursor: Cursor) -> None:
    for row in FORGETTING_INFO:
        cursor.execute("INSERT INTO metric_info VALUES (?, ?, ?, ?)", row)


MIGRATIONS: tuple[Callable[[Cursor], None], ...] = (
    create_the_record,
    sum_up_runs_that_ended,
    keep_what_people_write,
    keep_what_was_seen_inside,
    say_what_forgetting_is,
)


def migrate(cursor: Cursor, path: str, before: Callable[[int], object] | None = None) -> int:
    """Bring the database up to this code's schema.

    Args:
        before: called once with the file's present number before anything changes, if it holds runs already.

    Returns:
        How many migrations ran.

    Raises:
        StoreError: the file is a newer lab's, or a DuckDB database of something else.
    """
    done = _migrations_done(cursor, path)
    if len(done) > len(MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer lab (schema {len(done)}, this one knows {len(MIGRATIONS)}): "
            "update the lab, or set LAB_HOME to another folder."
        )
    if before is not None and 0 < len(done) < len(MIGRATIONS):
        before(len(done))
    for number, migration in enumerate(MIGRATIONS[len(done) :], start=len(done) + 1):
        with cursor.transaction():
            migration(cursor)
            cursor.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?)", [number, migration.__name__, datetime.now(UTC)]
            )
    return len(MIGRATIONS) - len(done)


def _migrations_done(cursor: Cursor, path: str) -> list[int]:
    tables = {
        name for (name,) in cursor.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
    }
    if "schema_migrations" not in tables:
        if tables:
            raise StoreError(
                f"{path} is a DuckDB database, but not the lab's record (it holds {', '.join(sorted(tables)[:5])}): "
                "move it away, or set LAB_HOME to another folder."
            )
        cursor.execute("CREATE TABLE schema_migrations (number INTEGER, name VARCHAR, applied_at TIMESTAMPTZ)")
        return []
    return [number for (number,) in cursor.execute("SELECT number FROM schema_migrations ORDER BY number").fetchall()]
