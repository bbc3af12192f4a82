"""Finding runs among thousands: one value says what to look for, how to sort, and is what a saved view keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from lab.errors import StoreError
from lab.store.source import Source, cursor_of
from lab.store.sql_text import with_values

if TYPE_CHECKING:
    import pandas

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "contains"]
OPERATORS: tuple[Operator, ...] = ("=", "!=", "<", "<=", ">", ">=", "contains")
Place = Literal["current", "archived", "deleted", "all"]
PLACES: tuple[Place, ...] = ("current", "archived", "deleted", "all")
Value = Literal["last", "best", "lowest", "highest", "first"]
VALUES: dict[Value, str] = {
    "last": "last_value",
    "best": "best",
    "lowest": "lowest",
    "highest": "highest",
    "first": "first_value",
}
COLUMNS = (
    "created_at", "ended_at", "name", "status", "kind", "n_params", "seed", "device", "note", "step", "elapsed_s",
    "tokens_seen",
)  # fmt: skip
"""What a list can be sorted by besides metrics and settings."""

_PLACE_SQL: dict[Place, str] = {
    "current": "r.deleted_at IS NULL AND r.archived_at IS NULL",
    "archived": "r.deleted_at IS NULL AND r.archived_at IS NOT NULL",
    "deleted": "r.deleted_at IS NOT NULL",
    "all": "r.deleted_at IS NULL",
}


@dataclass(frozen=True)
class Condition:
    """A setting compared with a value: `Condition("learning_rate", ">=", 0.001)`."""

    setting: str
    operator: Operator
    value: str | float | bool


@dataclass(frozen=True)
class RunSearch:
    """What to list. The defaults list every run that is neither archived nor deleted, newest first."""

    text: str = ""
    """Words that all have to occur in the id, name, note, notebook, tags or corpus, in any order and any case."""
    status: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """A run must carry all of them."""
    conditions: tuple[Condition, ...] = ()
    place: Place = "current"
    sort: str = "created_at"
    """One of COLUMNS, a metric (it has a slash: val/loss), or a setting."""
    value: Value = "last"
    """Which value of the metric, when the list is sorted by one."""
    ascending: bool = False
    metrics: tuple[str, ...] = ()
    """Metrics to show as columns of their own, by `value`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "RunSearch":
        """Read a saved view.

        Raises:
            StoreError: it holds what this lab does not know.
        """
        known = {field.name for field in fields(cls)}
        if strangers := [name for name in stored if name not in known]:
            raise StoreError(f"The saved view asks for {', '.join(strangers)}, which this lab does not know.")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        values["conditions"] = tuple(Condition(**condition) for condition in stored.get("conditions", ()))
        return cls(**values)


def find_runs(
    source: Source, search: RunSearch | None = None, *, limit: int | None = None, offset: int = 0
) -> "pandas.DataFrame":
    """The runs that fit, sorted; runs without the value that is sorted by come last.

    Returns:
        Columns of the view `run_summary`, then one per metric asked for. `attrs`: total (runs that fit, on all
        pages), sql (a statement that yields the same rows).

    Raises:
        StoreError: the search asks for something impossible.
    """
    search = search or RunSearch()
    where, values = _where(search)
    shown = dict.fromkeys((*search.metrics, *([search.sort] if "/" in search.sort else ())))
    joins, columns, join_values = [], [], []
    for number, name in enumerate(shown):
        joins.append(f"LEFT JOIN metric_totals m{number} ON m{number}.run_id = r.run_id AND m{number}.name = ?")
        join_values.append(name)
        columns.append(f"m{number}.{_value_column(search)} AS {_quoted(name)}")
    order = _order(search, list(shown))
    listed = ", ".join(["s.*", *columns])
    direction = "ASC" if search.ascending else "DESC"
    body = f"""
FROM runs r JOIN all_runs_summary s USING (run_id)
{" ".join(joins)}
WHERE {where}"""
    sql = f"SELECT {listed} {body}\nORDER BY {order} {direction} NULLS LAST, r.run_id DESC"
    given = [*join_values, *values]
    page = f"{sql}\nLIMIT {int(limit)} OFFSET {int(offset)}" if limit is not None else sql
    with cursor_of(source) as cursor:
        frame = cursor.execute(page, given).df()
        total = len(frame)
        if limit is not None:
            ((total,),) = cursor.execute(f"SELECT count(*) FROM runs r WHERE {where}", values).fetchall()
    frame.attrs = {"total": total, "sql": with_values(page, given)}
    return frame


def choices(source: Source) -> dict[str, list[str]]:
    """What there is to filter and sort by: status, kind, tags and metrics that occur, most frequent first."""
    with cursor_of(source) as cursor:
        found = {
            column: [
                value
                for value, _ in cursor.execute(
                    f"SELECT {column}, count(*) AS n FROM runs WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY n DESC, 1"
                ).fetchall()
            ]
            for column in ("status", "kind")
        }
        tags = cursor.execute(
            "SELECT tag, count(*) AS n FROM (SELECT unnest(tags) AS tag FROM runs) GROUP BY tag ORDER BY n DESC, tag"
        ).fetchall()
        metrics = cursor.execute(
            "SELECT name, count(*) AS n FROM metric_totals GROUP BY name ORDER BY n DESC, name"
        ).fetchall()
    return {**found, "tags": [tag for tag, _ in tags], "metrics": [name for name, _ in metrics]}


def _where(search: RunSearch) -> tuple[str, list[Any]]:
    if search.place not in PLACES:
        raise StoreError(f"The place is {search.place!r}, but must be one of {', '.join(PLACES)}.")
    terms, values = [_PLACE_SQL[search.place]], []
    haystack = (
        "concat_ws(' ', r.run_id, r.name, r.note, r.notebook, array_to_string(r.tags, ' '), r.config->>'$.data.corpus')"
    )
    for word in search.text.split():
        terms.append(f"contains(lower({haystack}), lower(?))")
        values.append(word)
    for column, wanted in (("status", search.status), ("kind", search.kind)):
        if wanted:
            terms.append(f"r.{column} IN ({', '.join('?' for _ in wanted)})")
            values += wanted
    for tag in search.tags:
        terms.append("list_contains(r.tags, ?)")
        values.append(tag)
    for condition in search.conditions:
        term, value = _condition(condition)
        terms.append(term)
        values.append(value)
    return " AND ".join(terms), values


def _setting(name: str) -> str:
    """The setting as text. Its name is unique over all sections of a config, so the section need not be named."""
    if not name.isidentifier():
        raise StoreError(f"{name!r} is not the name of a setting.")
    return f"json_extract_string(r.config, '$.*.{name}')[1]"


def _condition(condition: Condition) -> tuple[str, Any]:
    operator, value = condition.operator, condition.value
    if operator not in OPERATORS:
        raise StoreError(f"{operator!r} is no comparison: choose one of {', '.join(OPERATORS)}.")
    setting = _setting(condition.setting)
    if operator == "contains":
        return f"contains(lower({setting}), lower(?))", str(value)
    number = _number(value)
    sign = {"=": "IS NOT DISTINCT FROM", "!=": "IS DISTINCT FROM"}.get(operator, operator)
    if number is not None:
        return f"TRY_CAST({setting} AS DOUBLE) {sign} ?", number
    if isinstance(value, bool):
        value = "true" if value else "false"
    if operator not in ("=", "!="):
        raise StoreError(f"{condition.setting} {operator} {value!r}: only numbers are smaller or larger.")
    return f"{setting} {sign} ?", str(value)


def _number(value: str | float | bool) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _order(search: RunSearch, shown: list[str]) -> str:
    if search.sort in COLUMNS:
        return f"s.{search.sort}"
    if "/" in search.sort:
        # NaN sorts greatest in DuckDB: a run that diverged belongs at the end either way.
        column = f"m{shown.index(search.sort)}.{_value_column(search)}"
        return f"CASE WHEN isfinite({column}) THEN {column} END"
    if search.sort.isidentifier():
        # Numbers by size, then words by the alphabet.
        direction = "ASC" if search.ascending else "DESC"
        return f"TRY_CAST({_setting(search.sort)} AS DOUBLE) {direction} NULLS LAST, {_setting(search.sort)}"
    raise StoreError(f"{search.sort!r} is nothing to sort by: choose {', '.join(COLUMNS)}, a metric, or a setting.")


def _value_column(search: RunSearch) -> str:
    try:
        return VALUES[search.value]
    except KeyError:
        raise StoreError(f"{search.value!r} is no value of a metric: choose one of {', '.join(VALUES)}.") from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
