"""A real server and a real browser. What a person would see is what counts here."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
expect.set_options(timeout=60_000)  # as long as any action may take: the machine is shared
START_PATIENCE_S = 60


class Server:
    """The app as `make app` serves it, on a home of its own."""

    def __init__(self, home: Path):
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.on_end: Callable[[], object] = lambda: None
        """Called before the server goes: from then on a page may complain that nobody answers."""

    def start(self) -> None:
        command = [sys.executable, "-m", "streamlit", "run", "app/Home.py", "--server.headless", "true"]
        environment = {**os.environ, "LAB_HOME": str(self.home)}
        environment.pop("OMP_NUM_THREADS", None)
        self.process = subprocess.Popen(
            [*command, "--server.port", str(self.port)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"the app did not answer within {START_PATIENCE_S} s")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.on_end()
        self.process.send_signal(how)
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a module."""
    running = Server(tmp_path_factory.mktemp("home"))
    running.start()
    yield running
    running.end()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        if os.environ.get("LAB_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{CHROMIUM} is missing and LAB_REQUIRE_BROWSER=1 forbids to skip: install chromium")
        pytest.skip(f"needs Chromium at {CHROMIUM}: install Debian's package chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


class Complaints:
    """What a page must not do: log an error, or ask anybody but its own server."""

    def __init__(self, page: Page, server: Server):
        self.found: list[str] = []
        self.server_is_up = True
        page.on("console", lambda message: self._console(message.type, message.text, message.location.get("url", "")))
        page.on("pageerror", lambda error: self.found.append(f"page error: {error}"))
        page.on("request", lambda request: self._request(request.url, server.url))

    def _console(self, kind: str, text: str, url: str) -> None:
        # A deep link makes Streamlit look for its health endpoint beside the page's path first: two 404s, always.
        if kind == "error" and "_stcore" not in url and self.server_is_up:
            self.found.append(f"console: {text} ({url})")

    def _request(self, url: str, home: str) -> None:
        if not url.startswith((home, home.replace("http", "ws", 1), "data:", "blob:")):
            self.found.append(f"request to {url}")


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    """Opens tabs; afterwards none of them may have complained."""
    opened: list[tuple[Page, Complaints]] = []

    def open_at(path: str = "", *, width: int = 1440, height: int = 900, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        opened.append((page, Complaints(page, server)))
        page.goto(f"{server.url}/{path}")
        return page

    server.on_end = lambda: [setattr(complaints, "server_is_up", False) for _, complaints in opened]
    yield open_at
    found = [complaint for _, complaints in opened for complaint in complaints.found]
    for page, _ in opened:
        page.context.close()
    assert found == []


def press(button: Locator, then: Locator) -> None:
    """Click until it has worked: a click in the moment a page is laid out anew is lost, and a person clicks again."""
    for _ in range(20):
        if button.is_visible():
            button.click()
        button.page.wait_for_timeout(3_000)
        if then.is_visible():
            return
    raise AssertionError("a button was pressed again and again and nothing came of it")
