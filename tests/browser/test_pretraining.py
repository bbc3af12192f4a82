"""A person's first evening: train from the defaults, watch, pause, reload, resume, stop, generate."""

import re
import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Server, press

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
LONG = 120_000  # milliseconds: the machine is shared, and PyTorch has to load once


def step_of(page: Page) -> int:
    """The step that the run's own progress line tells."""
    text = page.get_by_test_id("stProgress").last.inner_text()
    found = re.search(r"step ([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else 0


def wait_for_step(page: Page, step: int) -> int:
    for _ in range(LONG // 250):
        if (now := step_of(page)) >= step:
            return now
        page.wait_for_timeout(250)
    raise AssertionError(f"the run never reached step {step}; it stands at {step_of(page)}")


def button(page: Page, name: str) -> Locator:
    """The strip's button where the run is live, else the run's own."""
    return page.get_by_role("button", name=name, exact=True).first


def start(page: Page) -> None:
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(button(page, "Stop")).to_be_visible(timeout=LONG)


def stop(page: Page) -> None:
    press(button(page, "Stop"), page.get_by_text("stopped", exact=True).first)
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible(timeout=LONG)


def loss_chart(page: Page) -> Locator:
    return page.locator("canvas[aria-label*='oss']").first


def test_a_first_run_from_the_defaults(open_page: OpenPage, server: Server) -> None:
    page = open_page("pretraining")
    start(page)
    wait_for_step(page, 1)
    first = loss_chart(page).get_attribute("aria-label", timeout=LONG)

    reached = wait_for_step(page, step_of(page) + 20)
    assert loss_chart(page).get_attribute("aria-label") != first, "the drawn loss does not move"

    press(button(page, "Pause"), button(page, "Resume"))
    page.wait_for_timeout(4_000)  # the figures on the page follow within a poll or two
    held = step_of(page)
    page.wait_for_timeout(3_000)
    assert held >= reached
    assert step_of(page) == held, "a paused run goes on"

    page.reload()
    expect(button(page, "Resume")).to_be_visible(timeout=LONG)
    assert wait_for_step(page, held) == held, "a reload shows another picture"
    press(button(page, "Resume"), button(page, "Pause"))
    wait_for_step(page, held + 5)

    wait_for_step(page, 105)  # past the first evaluation: a state to write from
    expect(page.get_by_text("step 100", exact=False).first).to_be_visible(timeout=LONG)
    generate = page.get_by_role("button", name="Generate", exact=True)
    generate.scroll_into_view_if_needed()
    generate.click()
    expect(page.get_by_text("Written by the state of step", exact=False)).to_be_visible(timeout=LONG)

    stop(page)


def test_zoom_survives_ten_polls(open_page: OpenPage) -> None:
    page = open_page("pretraining")
    start(page)
    wait_for_step(page, 40)
    canvas = loss_chart(page)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    zoomed = (canvas.get_attribute("data-from"), canvas.get_attribute("data-to"))
    label = canvas.get_attribute("aria-label")
    polls = 0
    for _ in range(240):
        page.wait_for_timeout(250)
        new = canvas.get_attribute("aria-label")
        if new != label:
            polls, label = polls + 1, new
            assert (canvas.get_attribute("data-from"), canvas.get_attribute("data-to")) == zoomed
        if polls == 10:
            break
    assert polls == 10
    canvas.dblclick()
    page.wait_for_timeout(500)
    assert canvas.get_attribute("data-from") != zoomed[0], "a double click does not show all"
    stop(page)


def test_two_tabs_show_the_same_run_and_typed_values_stay(open_page: OpenPage) -> None:
    first, second = open_page("pretraining"), open_page("pretraining")
    start(first)
    steps = wait_for_step(first, 2)
    assert wait_for_step(second, steps) >= steps
    batch = second.get_by_role("spinbutton", name="Batch size")
    batch.fill("7")
    batch.press("Enter")
    second.wait_for_timeout(4_000)  # a few polls
    expect(batch).to_have_value("7")
    second.get_by_role("link", name="Runs").click()
    expect(second.get_by_role("heading", name="Runs")).to_be_visible(timeout=LONG)
    second.get_by_role("link", name="Pretraining").click()
    expect(second.get_by_role("spinbutton", name="Batch size")).to_have_value("7", timeout=LONG)
    stop(first)
    expect(second.get_by_text("stopped", exact=True).first).to_be_visible(timeout=LONG)


def test_a_killed_server_loses_nothing_but_the_moment(open_page: OpenPage, server: Server) -> None:
    page = open_page("pretraining")
    start(page)
    wait_for_step(page, 110)
    server.end(signal.SIGKILL)
    server.start()
    again = open_page("pretraining")
    expect(again.get_by_text("interrupted", exact=True).first).to_be_visible(timeout=LONG)
    press(button(again, "Resume"), button(again, "Stop"))
    wait_for_step(again, 112)
    stop(again)
