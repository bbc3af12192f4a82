"""Looking inside: one's own small GPT over its training, and a real LLM, with every kind of text."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import REPOSITORY, Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
LONG = 120_000  # milliseconds: the machine is shared, and PyTorch has to load once
LONG_TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Server]:
    """The app with one trained run and smollm2-135m."""
    home = tmp_path_factory.mktemp("home")
    shape = ["--n-layers", "2", "--emb-dim", "32", "--context-length", "64", "--precision", "fp32", "--threads", "1"]
    budget = ["--max-steps", "60", "--checkpoint-every", "20", "--eval-every", "20"]
    subprocess.run(
        [sys.executable, "-m", "lab", "train", "--preset", "pocket", "--name", "watched", *shape, *budget],
        env={**os.environ, "LAB_HOME": str(home), "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_MODEL_CACHE", str(smollm2.parent))
        running = Server(home)
        running.start()
    yield running
    running.end()


def read(page: Page, text: str) -> None:
    box = page.get_by_label("Text", exact=True)
    box.fill(text)
    box.press("Control+Enter")


def tokens(page: Page, count: int) -> Locator:
    return page.get_by_text(f"{count} token", exact=False).first


def grid(page: Page) -> Locator:
    return page.locator("canvas[aria-label*='heads; chosen']")


def no_error(page: Page) -> None:
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_test_id("stAlertContentError").count() == 0, page.get_by_test_id("stAlert").all_inner_texts()


def look(page: Page) -> None:
    page.get_by_role("button", name="Look inside").click()
    expect(page.get_by_text("checked, largest error").first).to_be_visible(timeout=LONG)


def test_ones_own_model_head_by_head_and_step_by_step(open_page: OpenPage) -> None:
    page = open_page("attention")
    look(page)
    expect(page.get_by_text("watched, step 60").first).to_be_visible()
    expect(grid(page)).to_be_visible(timeout=LONG)

    box = grid(page).bounding_box()
    assert box is not None
    grid(page).click(position={"x": 30 + (box["width"] - 30) * 0.9, "y": box["height"] * 0.9})
    expect(page.get_by_text("Layer 1, head 3 · rows look at").first).to_be_visible(timeout=LONG)
    grid(page).press("ArrowLeft")
    expect(page.get_by_text("Layer 1, head 2 · rows look at").first).to_be_visible(timeout=LONG)

    page.get_by_role("slider").first.press("ArrowLeft")
    expect(page.get_by_text("watched, step 40").first).to_be_visible(timeout=LONG)
    page.reload()
    expect(page.get_by_text("watched, step 40").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Layer 1, head 2 · rows look at").first).to_be_visible(timeout=LONG)

    page.get_by_role("link", name="Probing").click()
    expect(page.get_by_text("watched, step 40").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("the likeliest next token", exact=False).first).to_be_visible(timeout=LONG)
    no_error(page)


def test_a_checkpoint_opens_in_attention(open_page: OpenPage) -> None:
    page = open_page("pretraining")
    page.get_by_role("tab", name="Checkpoints").click()
    page.get_by_role("link", name="Attention", exact=True).nth(1).click()
    expect(page.get_by_text("watched, step", exact=False).first).to_be_visible(timeout=LONG)
    expect(grid(page)).to_be_visible(timeout=LONG)


def test_thirty_layers_of_nine_heads_change_with_the_text(open_page: OpenPage) -> None:
    """How fast is measured by benchmarks/attention_page.py: this machine is shared."""
    page = open_page("attention?model=smollm2-135m&look=1")
    expect(grid(page)).to_be_visible(timeout=LONG)
    for text, count in (("Long live the king.", 5), (LONG_TEXT[:560], 150)):
        read(page, text)
        expect(page.locator("button.chip")).to_have_count(count, timeout=LONG)
        expect(grid(page)).to_have_attribute(
            "aria-label", "30 layers of 9 heads; chosen: layer 0, head 0. Arrow keys choose another."
        )
    with page.expect_download() as saved:
        page.get_by_role("button", name="PNG", exact=True).click()
    assert saved.value.suggested_filename == "heads-smollm2-135m.png"
    for kind, start in (("CSV", b"layer,head,"), ("Parquet", b"PAR1")):
        with page.expect_download() as saved:
            page.get_by_role("button", name=kind).first.click()
        assert Path(saved.value.path()).read_bytes().startswith(start), kind


def test_a_text_of_a_thousand_tokens_gives_all_figures_and_one_layers_weights(open_page: OpenPage) -> None:
    page = open_page("attention?model=smollm2-135m&look=1")
    expect(grid(page)).to_be_visible(timeout=LONG)
    read(page, LONG_TEXT * 5)
    expect(page.get_by_text("A long text: every head has its figures", exact=False)).to_be_visible(timeout=LONG)
    expect(page.get_by_text("A cell stands for", exact=False)).to_be_visible(timeout=LONG)
    expect(page.locator("button.chip")).to_have_count(256, timeout=LONG)
    no_error(page)


def test_a_pulled_model_writes_from_the_page(open_page: OpenPage) -> None:
    page = open_page("attention?model=smollm2-135m&look=1")
    expect(grid(page)).to_be_visible(timeout=LONG)
    page.get_by_text("Generate: let this model write").click()
    page.get_by_role("textbox", name="Prompt").fill("The capital of France is")
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_role("spinbutton", name="Longest text (tokens)").fill("6")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("point at a token for the figure", exact=False)).to_be_visible(timeout=LONG)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled(timeout=LONG)
    no_error(page)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a", 1),
        ("\N{FAMILY}\N{GRINNING FACE} is \N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}", None),
        ("שלום עולם, مرحبا بالعالم", None),
        ("pneumonoultramicroscopicsilicovolcanoconiosis" + " " * 40 + "<b>&amp;</b> $x^2$ **bold** :smile:", None),
        ((LONG_TEXT * 2).strip() + " so" * 8, 512),
    ],
    ids=["one token", "emoji", "right to left", "long labels and markup", "512 tokens"],
)
def test_any_text_can_be_read_on_both_pages(open_page: OpenPage, text: str, count: int | None) -> None:
    page = open_page("attention?model=smollm2-135m&look=1")
    expect(grid(page)).to_be_visible(timeout=LONG)
    read(page, text)
    expect(tokens(page, count) if count else page.get_by_text("as the model sees them").first).to_be_visible(
        timeout=LONG
    )
    page.wait_for_timeout(1_500)
    no_error(page)
    page.get_by_role("link", name="Probing").click()
    expect(page.get_by_text("the likeliest next token", exact=False).first).to_be_visible(timeout=LONG)
    no_error(page)


def test_an_empty_box_asks_for_a_word(open_page: OpenPage) -> None:
    page = open_page("attention")
    look(page)
    read(page, "")
    expect(page.get_by_text("The box is empty", exact=False)).to_be_visible(timeout=LONG)
    assert page.get_by_test_id("stException").count() == 0


def test_both_pages_fit_a_narrow_screen_in_the_dark(open_page: OpenPage) -> None:
    page = open_page("attention?look=1", width=800, dark=True)
    expect(grid(page)).to_be_visible(timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
