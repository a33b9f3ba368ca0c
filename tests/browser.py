"""A browser for tests that look at pages as a reader sees them; tests without one are skipped, with what to install."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # else the one that Playwright fetches itself
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextlib.contextmanager
def browser_page(width: int = 1280, height: int = 900) -> Iterator:
    """Yield an empty page of a Chromium, in which `faults` collects errors and `requests` the addresses asked for."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="looks at pages in a browser: pip install playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except sync_api.Error as error:
            pytest.skip(f"no browser: apt-get install chromium, or python -m playwright install chromium ({error})")
        try:
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.faults, page.requests = [], []
            page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
            page.on("pageerror", lambda error: page.faults.append(str(error)))
            page.on("request", lambda request: page.requests.append(request.url))
            yield page
        finally:
            chromium.close()
