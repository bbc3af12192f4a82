"""Somebody with a small machine moves a knob, sees what it needs, takes what fits, and sees that it was so."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import press

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
LONG = 120_000  # milliseconds: the machine is shared, and PyTorch has to load once
TINY = (
    "corpus=tiny&emb_dim=16&n_layers=1&n_heads=2&context_length=16&batch_size=4&max_steps=5&eval_tokens=64"
    "&sample_tokens=8&precision=fp32&threads=1"
)


def panel(page: Page) -> Locator:
    return page.locator(".st-key-memory_panel")


def need(page: Page) -> str:
    """What the panel says a GPU with 16 GB would need, once it is known."""
    figure = panel(page).get_by_test_id("stMetricValue").nth(1)
    expect(figure).to_have_text(re.compile(r"[\d.]+ [GM]iB"), timeout=LONG)
    return figure.inner_text()


def test_a_knob_moves_the_forecast_and_says_beside_it_what_it_would_save(open_page: OpenPage) -> None:
    page = open_page("pretraining")
    before = need(page)
    expect(panel(page).get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=LONG)
    batch = page.get_by_role("spinbutton", name="Batch size")
    batch.fill("3000")
    batch.press("Enter")
    expect(panel(page).get_by_test_id("stMetricValue").nth(1)).not_to_have_text(before, timeout=LONG)
    expect(page.get_by_test_id("stSidebar").get_by_text("does not fit").or_(
        page.get_by_test_id("stSidebar").get_by_text("fits")).first).to_be_visible(timeout=LONG)  # fmt: skip
    # Half the batch is the neighbour that is forecast.
    expect(page.get_by_test_id("stSidebar").get_by_text(re.compile(r"^1,500: −[\d.]+ [GM]iB$"))).to_be_visible(
        timeout=LONG
    )


def test_one_click_puts_what_fits_into_the_form(open_page: OpenPage) -> None:
    page = open_page("pretraining?batch_size=3")
    panel(page).get_by_text("A GPU with 16 GB").first.click()
    offer = panel(page).get_by_text(re.compile(r"Largest batch that fits: [\d,]+"))
    expect(offer).to_be_visible(timeout=LONG)
    found = re.search(r"fits: ([\d,]+)", offer.inner_text())
    assert found is not None
    largest = found[1].replace(",", "")
    # What may still come would move what stands below, and lay the page out anew under a click.
    expect(panel(page).get_by_text(re.compile("^Computing"))).to_have_count(0, timeout=LONG)
    page.wait_for_timeout(1_000)
    batch = page.get_by_role("spinbutton", name="Batch size")
    for _ in range(10):
        page.locator(".st-key-fit_batch_size").get_by_role("button", name="Use").first.click()
        page.wait_for_timeout(3_000)
        if batch.input_value() == largest:
            break
    expect(page.get_by_role("spinbutton", name="Batch size")).to_have_value(largest, timeout=LONG)
    assert f"batch_size={largest}" in page.url


def test_after_a_run_its_real_step_lies_over_the_forecast(open_page: OpenPage) -> None:
    page = open_page(f"pretraining?{TINY}")
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_visible(timeout=LONG)
    page.wait_for_timeout(2_000)
    press(start, page.get_by_text(re.compile("^(running|finished)$")).first)
    expect(page.get_by_text("finished", exact=True).first).to_be_visible(timeout=LONG)
    page.get_by_role("tab", name="Memory").click()
    said = page.get_by_text(re.compile(r"^Forecast [\d.]+ [GM]iB, measured [\d.]+ [GM]iB, [+−-]\d+\.\d\d % off"))
    expect(said).to_be_visible(timeout=LONG)
    expect(page.get_by_role("tabpanel").get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("How good the forecasts have been")).to_be_visible(timeout=LONG)
