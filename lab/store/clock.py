"""A clock that was put back. Nothing that counts depends on it: rows are ordered by step and by coming in."""

from datetime import UTC, datetime, timedelta

from lab.store.cursor import Cursor

_SLACK = timedelta(hours=1)


def clock_jump(cursor: Cursor) -> str:
    """A sentence when the record holds times that this computer's clock has not reached yet; else nothing."""
    sql = "SELECT greatest((SELECT max(created_at) FROM runs), (SELECT max(time) FROM events))"
    ((newest,),) = cursor.execute(sql).fetchall()
    now = datetime.now(UTC)
    if newest is None or newest <= now + _SLACK:
        return ""
    return (
        f"The record holds times up to {newest:%Y-%m-%d %H:%M} UTC, but the clock here says {now:%Y-%m-%d %H:%M}: "
        "the clock was put back, so times will look out of order; steps and rows are not affected."
    )
