"""The console: examples, statements, what is kept, and a chart of a result."""

import io
from typing import Literal

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.ui import sql_question
from app.ui.charts import OVER, Style, overlay_data
from app.ui.live_chart import Look
from app.ui.run_charts import AXES, loss_chart
from app.ui.run_details import chart_statement
from app.ui.run_page import other_charts
from app.ui.runs_compare import parallel_sql
from app.ui.sql_console import schema
from app.ui.sql_examples import EXAMPLES
from app.ui.sql_result import MOST_POINTS, _parquet, chart_of, thinned
from lab.config import PRESETS
from lab.engine import Engine
from lab.store import run_sql
from lab.store.saved import saved_queries, sql_history
from tests.app.kept import keep
from tests.app.test_pages import button, words_on

PATIENCE_S = 60


@pytest.fixture
def sql(home: AppTest) -> AppTest:
    """The app, opened at SQL."""
    return home.switch_page("../pages/sql.py").run()


def answered(page: AppTest) -> AppTest:
    """The page once its question has its answer."""
    assert page.session_state["sql_question"].wait(PATIENCE_S)
    page.run()
    assert not page.exception
    return page


def ask(page: AppTest, statement: str) -> AppTest:
    next(area for area in page.text_area if area.key == "sql_text").set_value(statement).run()
    button(page, "sql_run").click().run()
    return answered(page)


def test_a_typed_statement_is_answered(sql: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    ask(sql, "SELECT name, best_val_loss FROM run_summary;")
    assert "1 row in" in words_on(sql)
    assert list(sql.dataframe[0].value["name"]) == ["one"]
    assert sql.query_params["sql"] == "SELECT name, best_val_loss FROM run_summary;"


def test_a_link_asks_its_statement(sql: AppTest) -> None:
    sql.query_params["sql"] = "SELECT 42 AS answer"
    sql.run()
    answered(sql)
    assert list(sql.dataframe[0].value["answer"]) == [42]


def test_a_mistake_is_one_sentence_and_nothing_is_changed(sql: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    ask(sql, "DELETE FROM runs")
    assert "Only questions are answered here" in sql.error[0].value
    ask(sql, "SELECT nothing FROM runs")
    assert "does not work" in sql.error[0].value
    assert list(sql_history(engine.database)["error"].notna()) == [True, True]
    ask(sql, "SELECT count(*) AS n FROM runs")
    assert list(sql.dataframe[0].value["n"]) == [1]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_answered_from_the_persons_own_runs(engine: Engine, number: int) -> None:
    for seed in (1, 2):
        keep(engine, f"seed {seed}", seed=seed)
    answer = run_sql(EXAMPLES[number].sql)
    # Nothing went wrong here, and nobody guessed.
    assert bool(answer.table.num_rows) == (EXAMPLES[number].question not in (
        "How good are my guesses?", "What went wrong, and when?"
    ))  # fmt: skip


def test_the_example_about_induction_heads_names_the_head_and_the_step_at_which_it_rose(engine: Engine) -> None:
    keep(engine, "one")
    (example,) = [one for one in EXAMPLES if "induction" in one.question]
    first, second = run_sql(example.sql).frame().to_dict("records")
    assert (first["name"], first["layer"], first["head"], first["step"]) == ("one", 0, 1, 20)
    assert (first["highest"], first["rose_there"]) == (pytest.approx(0.8), pytest.approx(0.6))
    assert (second["head"], second["highest"]) == (0, pytest.approx(0.05))


def test_an_example_fills_the_box_and_runs(sql: AppTest, engine: Engine) -> None:
    keep(engine, "one")
    button(sql, "example_0").click().run()
    answered(sql)
    assert next(area for area in sql.text_area if area.key == "sql_text").value == EXAMPLES[0].sql
    assert list(sql.dataframe[0].value["name"]) == ["one"]


def test_a_statement_is_kept_run_again_and_forgotten(sql: AppTest, engine: Engine) -> None:
    ask(sql, "SELECT 1 AS one")
    next(field for field in sql.text_input if field.key == "sql_name").set_value("a one").run()
    button(sql, "sql_keep").click().run()
    assert saved_queries(engine.database) == {"a one": "SELECT 1 AS one"}
    button(sql, "kept_a one").click().run()
    answered(sql)
    button(sql, "kept_forget_a one").click().run()
    assert saved_queries(engine.database) == {}


def test_stop_ends_a_query_at_once(engine: Engine) -> None:
    question = sql_question.ask(engine.database, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000) b")
    assert not question.wait(0.5)
    question.stop()
    assert question.wait(5)
    assert "stopped on request" in str(question.error)


def test_an_answer_that_is_cut_says_so(engine: Engine) -> None:
    question = sql_question.ask(engine.database, "SELECT * FROM range(100)", limit=10)
    assert question.wait(PATIENCE_S)
    assert question.answer is not None
    assert question.answer.table.num_rows == 10
    assert "Only the first 10 rows" in question.answer.notice


def test_the_schema_lists_every_view_and_table_with_its_columns(engine: Engine) -> None:
    with engine.cursor() as cursor:
        found = schema(cursor)
    assert {"run_summary", "pretrain_runs", "metrics", "samples", "events"} <= found.keys()
    assert ("learning_rate", "DOUBLE") in found["pretrain_runs"]
    assert [name for name, _ in found["metrics"]] == ["run_id", "step", "tokens_seen", "elapsed_s", "name", "value"]


@pytest.mark.parametrize("x", list(AXES))
def test_the_sql_of_every_chart_yields_the_points_that_are_drawn_over_each_axis(
    engine: Engine, x: Literal["step", "tokens", "seconds"]
) -> None:
    run_id = keep(engine, "one")
    with engine.database.writing() as cursor:  # more rows than a chart has points
        cursor.execute(
            "INSERT INTO metrics SELECT ?, i, i * 64, i * 0.1, unnest(['train/loss', 'train/grad_norm']), sin(i) + 3 "
            "FROM range(41, 3000) t(i)", [run_id],
        )  # fmt: skip
    with engine.cursor() as cursor:
        loss = loss_chart(cursor, run_id, look=Look(x=x), vocab_size=None)
        (norm,) = other_charts(cursor, run_id, ["train/grad_norm"], Look(x=x))
        lines = {"train/loss": loss.lines[0], "val/loss": loss.lines[1], "train/grad_norm": norm.lines[0]}
        statements = {name: chart_statement(cursor, run_id, name, AXES[x]) for name in lines}
    for name, line in lines.items():
        asked = run_sql(statements[name]).frame().rename(columns={"mean": "value"})
        pd.testing.assert_frame_equal(asked[line.points.columns], line.points, check_dtype=False, check_flags=False)
    assert 375 < len(lines["train/loss"].points) <= 1_000


def test_the_sql_over_flops_counts_what_a_comparison_over_flops_counts(engine: Engine) -> None:
    run_id = keep(engine, "one")
    with engine.cursor() as cursor:
        drawn = overlay_data(cursor, {run_id: "one"}, "val/loss", Style(over="FLOPs"))
        statement = chart_statement(cursor, run_id, "val/loss", OVER["FLOPs"])
    assert list(run_sql(statement).frame()["x"]) == list(drawn["x"])


@pytest.mark.parametrize(
    "style", [Style(over=over) for over in OVER] + [Style(log_x=True, log_y=True, best=True)], ids=str
)
def test_the_sql_of_a_comparison_yields_the_rows_that_are_drawn(engine: Engine, style: Style) -> None:
    names = {keep(engine, "it's one", ends_at=-1.0): "it's one", keep(engine, "two"): "two"}
    with engine.cursor() as cursor:
        data = overlay_data(cursor, names, "val/loss", style)
    asked = run_sql(data.attrs["sql"]).frame()
    assert list(asked["run"]) == list(data["run"])
    assert list(asked["mean"]) == list(data["raw"])
    assert list(asked["x"]) == list(data["x"])
    assert list(asked["best" if style.best else "mean"]) == list(data["drawn"])


def test_the_sql_of_parallel_coordinates_yields_a_row_per_run_and_a_column_per_axis(engine: Engine) -> None:
    names = {keep(engine, "one", learning_rate=0.01): "one", keep(engine, "two", ends_at=3.0): "two"}
    asked = run_sql(parallel_sql(names, ["learning_rate", "corpus", "began_from", "val/loss"])).frame().fillna("")
    rates = ["0.01", str(PRESETS["pocket"].optim.learning_rate)]
    assert list(asked.itertuples(index=False, name=None)) == [
        (name, rate, "tiny", "", loss) for name, rate, loss in zip(["one", "two"], rates, [2.0, 3.0], strict=True)
    ]


def test_a_result_with_steps_becomes_a_line_per_run() -> None:
    frame = pd.DataFrame({"name": ["a", "a", "b", "b"], "step": [0, 1, 0, 1], "value": [4.0, 3.0, 4.0, 2.0]})
    chart = chart_of(frame)
    assert chart is not None
    assert set(chart.data["line"]) == {"a", "b"}
    assert chart.encoding.x.shorthand == "step:Q"


def test_a_result_without_steps_or_numbers_has_no_chart() -> None:
    assert chart_of(pd.DataFrame({"name": ["a"], "loss": [1.0]})) is None
    assert chart_of(pd.DataFrame({"step": [1], "text": ["a"]})) is None
    assert chart_of(pd.DataFrame({"step": [], "value": []})) is None


def test_a_long_result_is_thinned_and_keeps_the_ends_of_its_lines() -> None:
    long = pd.DataFrame({"line": "a", "step": range(20_001), "drawn": 1.0})
    thin = thinned(long, "step")
    assert len(thin) <= MOST_POINTS + 1
    assert thin["step"].iloc[0] == 0
    assert thin["step"].iloc[-1] == 20_000


def test_an_export_holds_the_rows(engine: Engine) -> None:
    keep(engine, "one")
    answer = run_sql("SELECT step, value FROM metrics WHERE name = 'val/loss' ORDER BY step")
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(_parquet(answer))), answer.frame())
    assert pd.read_csv(io.StringIO(answer.text("csv")))["value"].iloc[0] == 4.0
