"""The app in a real browser: a server of its own on a free port, and Debian's chromium driven by Playwright."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW = 90_000
"""Milliseconds that anything may take on a busy machine with two cores."""
MAPS = 'img[alt*="over the photo"]'


@contextmanager
def serve(script: str | Path = "app.py") -> Iterator[str]:
    """The address of a running app."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless", "true", "--server.port", str(port)]
    url = f"http://localhost:{port}"
    # Into a file: a pipe that nobody reads would stop the server once it is full.
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        try:
            wait_healthy(url)
            yield url
        except TimeoutError as error:
            said.seek(0)
            error.add_note(said.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            server.terminate()
            server.wait(30)


def wait_healthy(url: str, seconds: float = 60) -> None:
    """Waits until the server answers on its health page."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if urllib.request.urlopen(url + "/_stcore/health", timeout=2).status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the app did not become healthy")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Without one tests are skipped, but not in CI: there they fail."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        message = "no chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def visit(browser: Browser, url: str, width: int = 1400) -> Page:
    """A new context (nothing shared with others) on a page, with errors of its scripts collected in `page.problems`."""
    page = browser.new_context(viewport={"width": width, "height": 1000}).new_page()
    page.set_default_timeout(SLOW)
    page.goto(url)
    return page


def wait_for_maps(page: Page, count: int) -> list[str]:
    """Waits until so many maps are drawn and nothing runs; their addresses."""
    expect(page.locator(MAPS)).to_have_count(count, timeout=SLOW)
    expect(page.locator('[data-testid="stStatusWidget"]')).to_have_count(0, timeout=SLOW)
    assert page.locator('[data-testid="stException"]').count() == 0
    return sources(page)


def sources(page: Page) -> list[str]:
    """The addresses of the drawn maps."""
    return pictures(page.locator(MAPS))


def pictures(images: Locator) -> list[str]:
    """The addresses of pictures, which change with their content; all at one moment, as the page may be drawn anew meanwhile."""
    return [str(src) for src in images.evaluate_all("all => all.map(img => img.src)")]


def wait_for_change(page: Page, before: list[str]) -> list[str]:
    """Waits until every map is another picture."""
    end = time.monotonic() + SLOW / 1000
    while time.monotonic() < end:
        now = sources(page)
        if len(now) == len(before) and not set(now) & set(before):
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the maps did not change")
