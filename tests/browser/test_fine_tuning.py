"""A person fine-tunes a model, asks it, and takes it along with a proof: in a real browser, on a tiny model."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server, press
from tests.finetuning.helpers import tiny_folder

pytestmark = pytest.mark.browser
FORM = {
    "ft_dataset": "pirate", "ft_max_length": 512, "ft_max_steps": 6, "ft_eval_every": 2, "ft_sample_tokens": 6,
    "ft_precision": "fp32", "ft_threads": 1, "ft_batch_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(server: Server) -> Path:
    return tiny_folder(server.home / "tiny")


def address(folder: Path) -> str:
    return f"fine_tuning?{urlencode({**FORM, 'ft_model': str(folder)})}"


def test_from_the_form_to_a_proven_export(open_page: Callable[..., Page], folder: Path) -> None:
    page = open_page(address(folder))
    expect(page.get_by_text("234 to learn from, 26 to validate with")).to_be_visible()
    chips = page.locator(".chip")
    expect(chips.filter(has_text="<|im_end|>").last).to_be_visible()
    assert page.locator(".chip.end").count() == 1
    press(page.get_by_role("button", name="Start", exact=True), page.get_by_text("Before and after"))

    expect(page.get_by_test_id("stMain").get_by_text("finished", exact=True).first).to_be_visible(timeout=90_000)
    expect(page.get_by_text("answered by the base model and by its newest state (step 6)")).to_be_visible(
        timeout=30_000
    )
    expect(page.get_by_text("At step 6: learnt")).to_be_visible()

    page.get_by_label("Longest answer (tokens)").fill("6")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("Answered by the state of step 6")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Answered by the state of step 6")).to_be_visible()
    expect(page.get_by_text("Fine-tuned, strength 1")).to_be_visible()

    page.get_by_text("What the adapter did", exact=True).click()
    expect(page.get_by_text("directions (effective rank)")).to_be_visible()
    expect(page.get_by_text("of ‖W‖, most in layer")).to_be_visible()

    page.get_by_text("Export", exact=True).click()
    page.get_by_role("button", name="Export and prove").click()
    expect(page.get_by_text("same likeliest token at 100.0%")).to_be_visible()

    page.get_by_role("link", name="Outputs").click()
    expect(page.get_by_text("2 on disk")).to_be_visible()

    for width, dark in ((800, False), (1440, True)):
        page = open_page(address(folder), width=width, dark=dark)
        expect(page.get_by_text("Learnt and forgotten")).to_be_visible()
        page.wait_for_timeout(1_000)
        main = page.get_by_test_id("stMain")
        assert main.evaluate("element => element.scrollWidth <= element.clientWidth"), f"{width} px are too few"
