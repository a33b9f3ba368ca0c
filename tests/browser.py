"""A browser for tests that look at pages as a reader sees them; tests without one are skipped, with what to install."""

import contextlib
import shutil
from collections.abc import Callable, Iterator

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # else the one that Playwright fetches itself
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextlib.contextmanager
def chromium(missing: Callable[[str], None] = pytest.skip) -> Iterator:
    """Yield a Chromium; where there is none, call `missing` with what to install."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="opens a browser: make browser-test, or pip install '.[browser]'"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except sync_api.Error as error:
            missing(f"no browser: apt-get install chromium, or python -m playwright install chromium ({error})")
        yield opened
        opened.close()


@contextlib.contextmanager
def browser_page(width: int = 1280, height: int = 900) -> Iterator:
    """Yield an empty page of a Chromium, in which `faults` collects errors and `requests` the addresses asked for."""
    with chromium() as opened:
        page = opened.new_page(viewport={"width": width, "height": height})
        page.faults, page.requests = [], []
        page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        yield page
