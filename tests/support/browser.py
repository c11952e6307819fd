"""Run the app in a real browser: a separate server on a free port, and Chromium driven by Playwright."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from .gate import Gate
from .programs import unavailable
from .waiting import LIMIT, until

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MILLISECONDS = 1000 * LIMIT
MAPS = 'img[alt*="over the photo"]'
SETTLED = """() => {
    const app = document.querySelector('[data-testid="stApp"]');
    return app?.dataset.testScriptState === 'notRunning' && app.dataset.testConnectionState === 'CONNECTED'
        && !document.querySelector('[data-testid="stProgress"], [data-testid="stSpinner"], [data-stale="true"]')
        && !document.body.innerText.includes('hourglass_top');
}"""
"""Condition: the page is fully drawn by its script and shows nothing as pending."""
ALL_CHANGED = """([selector, old]) => {
    const now = [...document.querySelectorAll(selector)].map(img => img.src);
    return now.length === old.length && !now.some(src => old.includes(src));
}"""
"""Condition: there are as many pictures as before, and all have changed."""

expect.set_options(timeout=MILLISECONDS)


@contextmanager
def serve(script: str | Path = "app.py", gate: Gate | None = None) -> Iterator[str]:
    """Yield the address of a running app. With a gate, the app has the method `Held`.

    If `ATTRLIB_TEST_CGROUP` names the folder of a control group, the server runs in it and can be slowed down.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless", "true", "--server.port", str(port)]
    environment = os.environ | (gate.environment if gate is not None else {})
    url = f"http://localhost:{port}"
    # A file, as the server would block once an unread pipe is full.
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            if group := os.environ.get("ATTRLIB_TEST_CGROUP"):
                (Path(group) / "cgroup.procs").write_text(str(server.pid))
            until(lambda: server.poll() is not None or is_healthy(url), lambda: tail(output))
            assert server.poll() is None, tail(output)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(LIMIT)
            except subprocess.TimeoutExpired:
                server.kill()
                raise


def tail(output: IO[bytes]) -> str:
    """Return the last part of a server's output."""
    output.seek(0)
    return output.read()[-4000:].decode(errors="replace")


def is_healthy(url: str) -> bool:
    """Return whether the server answers on its health page."""
    try:
        return bool(urllib.request.urlopen(url + "/_stcore/health", timeout=LIMIT).status == 200)
    except OSError:
        return False


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser. Without one, tests are skipped; in CI they fail."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        unavailable("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=MILLISECONDS)
        yield browser
        browser.close()


def visit(browser: Browser, url: str = "", width: int = 1400, height: int = 1000) -> Page:
    """Return a page in a new context, which shares nothing with others.

    Args:
        browser: Running browser.
        url: Address to open; by default none is opened.
        width: Width of the viewport in pixels.
        height: Height of the viewport in pixels.
    """
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(MILLISECONDS)
    if url:
        page.goto(url)
    return page


def settle(page: Page) -> None:
    """Wait until the page is fully drawn by its script and shows nothing as pending."""
    page.wait_for_function(SETTLED)
    assert page.locator('[data-testid="stException"]').count() == 0


def wait_for_maps(page: Page, count: int) -> list[str]:
    """Wait until `count` maps are drawn and nothing runs; return their addresses."""
    expect(page.locator(MAPS)).to_have_count(count)
    settle(page)
    expect(page.locator(MAPS)).to_have_count(count)
    return pictures(page.locator(MAPS))


def pictures(images: Locator) -> list[str]:
    """Return the addresses of pictures, which change with their content.

    All are read at the same moment, as the page may be redrawn in between.
    """
    return [str(src) for src in images.evaluate_all("all => all.map(img => img.src)")]


def wait_for_change(page: Page, before: list[str], selector: str = MAPS) -> None:
    """Wait until every picture has changed."""
    page.wait_for_function(ALL_CHANGED, arg=[selector, before])
