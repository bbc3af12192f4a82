"""A person with some runs: finds them, looks at one, lays several beside each other, and asks in SQL."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import REPOSITORY, Server, press

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
LONG = 60_000  # milliseconds: the machine is shared
SETTLE = 3_000  # a page whose run changed its status is laid out anew, and a click in that very moment gets lost
TINY = (
    "--corpus tiny --emb-dim 16 --n-layers 1 --n-heads 2 --context-length 16 --batch-size 4 --eval-tokens 64 "
    "--sample-tokens 8 --precision fp32 --threads 1"
).split()


def lab(server: Server, *words: str) -> subprocess.Popen[str]:
    """A command beside the open app."""
    return subprocess.Popen(
        [sys.executable, "-m", "lab", *words],
        cwd=REPOSITORY,
        env={**os.environ, "LAB_HOME": str(server.home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def train(server: Server, name: str, *more: str) -> str:
    """A short run of the command line, to its end; returns its id."""
    words = ["train", *TINY, "--max-steps", "60", "--eval-every", "10", "--name", name, *more, "--json"]
    said, _ = lab(server, *words).communicate(timeout=120)
    return json.loads(said)["run_id"]


@pytest.fixture(scope="module")
def runs(server: Server) -> dict[str, str]:
    """Four real short runs, recorded by processes beside the app."""
    return {
        "slow one": train(server, "slow one", "--learning-rate", "0.001", "--seed", "1"),
        "slow two": train(server, "slow two", "--learning-rate", "0.001", "--seed", "2"),
        "fast one": train(server, "fast one", "--learning-rate", "0.004", "--seed", "1"),
        "fast wide": train(server, "fast wide", "--learning-rate", "0.004", "--seed", "1", "--drop-rate", "0.2"),
    }


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True).first


def test_marks_stand_in_the_address_and_lead_to_a_comparison(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page(f"runs?marked={runs['slow one']},{runs['fast one']}")
    expect(page.get_by_text("2 marked:")).to_be_visible(timeout=LONG)
    expect(page.locator("canvas[aria-label*='alidation']").first).to_be_visible(timeout=LONG)
    button(page, "Compare 2").click()
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible(timeout=LONG)
    assert f"compare={runs['slow one']}" in page.url
    expect(page.get_by_text("These two differ in learning_rate")).to_be_visible(timeout=LONG)
    expect(page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first).to_be_visible(
        timeout=LONG
    )
    page.get_by_text("Best so far", exact=True).click()
    page.wait_for_url(re.compile("compare_best=true"))
    page.reload()
    expect(page.get_by_text("These two differ in learning_rate")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("switch", name="Best so far")).to_be_checked(timeout=LONG)
    button(page, "All runs").click()
    expect(page.get_by_text("2 marked:")).to_be_visible(timeout=LONG)


def test_a_click_in_the_table_marks_a_run(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page("runs")
    table = page.get_by_test_id("stDataFrame").first
    expect(table).to_be_visible(timeout=LONG)
    expect(page.get_by_text(re.compile(r"^\d+ runs$"))).to_be_visible(timeout=LONG)
    page.wait_for_timeout(1_000)
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 16, box["y"] + 52)  # the first row's mark
    expect(page.get_by_text("1 marked:")).to_be_visible(timeout=LONG)
    assert "marked=" in page.url
    page.wait_for_timeout(4_000)  # two polls
    expect(page.get_by_text("1 marked:")).to_be_visible()
    page.locator(".st-key-marked_open button").first.click()
    expect(button(page, "All runs")).to_be_visible(timeout=LONG)
    assert "run=" in page.url


def test_searching_narrows_the_list(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page("runs")
    search = page.get_by_role("textbox", name="Search")
    search.fill("slow")
    search.press("Enter")
    expect(page.get_by_text("2 runs", exact=True)).to_be_visible(timeout=LONG)
    page.wait_for_timeout(500)
    again = open_page(page.url.split("/", 3)[3])
    expect(again.get_by_text("2 runs", exact=True)).to_be_visible(timeout=LONG)


def test_the_notebook_is_kept_while_it_is_typed(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page(f"runs?run={runs['slow one']}")
    page.get_by_role("tab", name="Notes").click()
    area = page.get_by_role("textbox", name="Notebook")
    area.click()
    area.press_sequentially("# What I saw\nIt **learns**.", delay=5)
    expect(page.get_by_text("Kept.")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("heading", name="What I saw")).to_be_visible(timeout=LONG)
    area.press_sequentially(" Slowly.", delay=5)  # the cursor is where it was, the text not taken away
    expect(area).to_have_value("# What I saw\nIt **learns**. Slowly.")
    page.wait_for_timeout(2_500)
    page.reload()
    page.get_by_role("tab", name="Notes").click()
    expect(page.get_by_role("textbox", name="Notebook")).to_have_value("# What I saw\nIt **learns**. Slowly.")


def test_a_report_and_an_archive_are_downloaded(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page(f"runs?run={runs['fast one']}")
    button(page, "Export").click()
    with page.expect_download(timeout=LONG) as report:
        button(page, "HTML report").click()
    assert report.value.suggested_filename == "fast-one.html"
    assert "<svg" in report.value.path().read_text()
    with page.expect_download(timeout=LONG) as archive:
        button(page, "Run archive").click()
    assert archive.value.suggested_filename == "fast-one.labrun"
    assert archive.value.path().read_bytes()[:2] == b"PK"


def test_one_click_trains_the_missing_controlled_run(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page(f"runs?compare={runs['slow two']},{runs['fast wide']}")
    expect(page.get_by_text("More than one thing changed")).to_be_visible(timeout=LONG)
    missing = page.get_by_role("button", name="Queue this run")
    there = page.get_by_role("button", name="Compare the three")
    expect(missing.or_(there)).to_have_count(6, timeout=LONG)  # both sides of seed, dropout and learning rate are drawn
    count = missing.count()
    missing.first.click()
    expect(missing).to_have_count(count - 1, timeout=LONG)
    expect(page.get_by_text("Nothing is running.")).to_be_visible(timeout=LONG)


def test_a_run_of_another_process_shows_up_and_obeys(open_page: OpenPage, server: Server, runs: dict[str, str]) -> None:
    page = open_page("runs?search=" + json.dumps({"text": "outside"}))
    expect(page.get_by_text("No run fits this search.")).to_be_visible(timeout=LONG)
    process = lab(server, "train", *TINY, "--max-steps", "1000000", "--eval-every", "500", "--name", "outside")
    try:
        # Within two seconds of its first rows on a machine that is not busy; how fast is not for a test to say.
        expect(page.get_by_text("1 run", exact=True)).to_be_visible(timeout=2 * LONG)
        outputs = server.home / "outputs"
        (run_id,) = {path.name for path in outputs.glob("2*")} - set(runs.values()) - _others(outputs, "outside")

        page.goto(f"{server.url}/runs?run={run_id}")
        press(button(page, "Pause"), button(page, "Resume"))
        press(button(page, "Resume"), button(page, "Pause"))
        press(button(page, "Stop"), page.get_by_text("stopped", exact=True).first)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def _others(outputs: Path, name: str) -> set[str]:
    """Runs of another name."""
    return {
        path.parent.name for path in outputs.glob("2*/run.json") if json.loads(path.read_text())["name"] != name
    }  # fmt: skip


def test_a_question_is_asked_charted_and_exported(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page("sql")
    page.get_by_role("button", name="How did my newest run learn?").click()
    expect(page.get_by_text(re.compile(r"rows? in [\d.]+ s")).first).to_be_visible(timeout=LONG)
    page.get_by_text("Chart it").click()
    expect(page.get_by_test_id("stVegaLiteChart")).to_be_visible(timeout=LONG)
    with page.expect_download(timeout=LONG) as download:
        button(page, "CSV").click()
    assert download.value.path().read_text().startswith("step,tokens_seen,val_loss\n")

    box = page.get_by_role("textbox", name="Statement")
    box.fill("SELECT count(*) AS n FROM run_summary WHERE name LIKE 'slow%'")
    box.press("Control+Enter")
    expect(page.get_by_text(re.compile(r"^1 row in"))).to_be_visible(timeout=LONG)
    box.fill("DROP TABLE runs")
    box.press("Control+Enter")
    expect(page.get_by_text("Only questions are answered here")).to_be_visible(timeout=LONG)


def test_stop_ends_a_long_query(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page("sql?sql=SELECT sum(a.range * b.range) FROM range(10000000) a, range(100000) b")
    button(page, "Stop").click(timeout=LONG)
    expect(page.get_by_text("The query was stopped on request.")).to_be_visible(timeout=LONG)


def test_show_the_sql_of_a_comparison_leads_to_the_same_rows(open_page: OpenPage, runs: dict[str, str]) -> None:
    page = open_page(f"runs?compare={runs['slow one']},{runs['fast one']}")
    page.get_by_role("link", name="Show the SQL").first.click()
    expect(page.get_by_role("heading", name="SQL", exact=True)).to_be_visible(timeout=LONG)
    expect(page.get_by_text(re.compile(r"^14 rows in"))).to_be_visible(timeout=LONG)  # 7 evaluations of each


def test_names_are_edited_in_the_table(open_page: OpenPage, runs: dict[str, str]) -> None:
    # By its id: a controlled run that was queued before carries its neighbour's name in its own.
    page = open_page("runs?search=" + json.dumps({"text": runs["fast wide"]}))
    expect(page.get_by_text("1 run", exact=True)).to_be_visible(timeout=LONG)
    page.get_by_text("Edit", exact=True).click()
    expect(page.get_by_text("Double click a cell")).to_be_visible(timeout=LONG)
    page.wait_for_timeout(SETTLE)
    box = page.get_by_test_id("stDataFrame").first.bounding_box()
    assert box is not None
    page.mouse.dblclick(box["x"] + 60, box["y"] + 52)
    field = page.locator("#portal textarea, #portal input").first  # the editor of a cell
    expect(field).to_be_visible(timeout=LONG)
    field.fill("wide and dropped")
    field.press("Enter")
    page.wait_for_timeout(SETTLE)
    again = open_page(f"runs?run={runs['fast wide']}")
    expect(again.get_by_role("heading", name="wide and dropped")).to_be_visible(timeout=LONG)
