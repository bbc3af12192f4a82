"""The tables as the first migration made them. Frozen: what came later stands in later migrations."""

FIRST_TABLES = (
    """
    CREATE TABLE runs (
        run_id VARCHAR PRIMARY KEY, name VARCHAR, kind VARCHAR, status VARCHAR, queue_pos INTEGER, config JSON,
        parent_run_id VARCHAR, parent_step BIGINT, tags VARCHAR[], note VARCHAR, seed BIGINT, device VARCHAR,
        host VARCHAR, n_params BIGINT, n_trainable BIGINT, versions JSON, total_steps BIGINT,
        created_at TIMESTAMPTZ, started_at TIMESTAMPTZ, ended_at TIMESTAMPTZ, pid BIGINT, error VARCHAR,
        deleted_at TIMESTAMPTZ
    )
    """,
    """
    CREATE TABLE metrics (
        run_id VARCHAR, step BIGINT, tokens_seen BIGINT, elapsed_s DOUBLE, name VARCHAR, value DOUBLE
    )
    """,
    "CREATE TABLE metric_info (name VARCHAR PRIMARY KEY, unit VARCHAR, better VARCHAR, description VARCHAR)",
    """
    CREATE TABLE samples (
        run_id VARCHAR, step BIGINT, prompt VARCHAR, text VARCHAR, seed BIGINT, sampling JSON
    )
    """,
    """
    CREATE TABLE events (
        run_id VARCHAR, step BIGINT, time TIMESTAMPTZ, level VARCHAR, kind VARCHAR, message VARCHAR
    )
    """,
    """
    CREATE TABLE checkpoints (
        run_id VARCHAR, step BIGINT, path VARCHAR, bytes BIGINT, sha256 VARCHAR, val_loss DOUBLE, kind VARCHAR
    )
    """,
    """
    CREATE TABLE predictions (
        run_id VARCHAR, metric VARCHAR, predicted DOUBLE, low DOUBLE, high DOUBLE, made_at TIMESTAMPTZ,
        actual DOUBLE, who VARCHAR
    )
    """,
    'CREATE TABLE segments_ingested (segment VARCHAR, sha256 VARCHAR, rows BIGINT, "at" TIMESTAMPTZ)',
)
