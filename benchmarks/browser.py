"""Measure how fast the app responds, and how much memory its server uses: `python -m benchmarks.browser --minutes 5`.

Runs a server with an empty store, and a real browser on this machine. A page is interactive once its main content is shown and its script
is idle. This is measured in a new session, where the browser first loads and starts the front end of Streamlit (measured separately on an
empty page), and, cached, in a session that has visited all pages before. A slider move ends when the pictures have changed and are all
decoded. In every round of the `--minutes` of use, all pages are visited in new sessions, and results that are not cached are computed; the
memory of the server should level off.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import Browser, Page

from tests.support.browser import MAPS, chromium, serve, visit

RESTS = '[data-testid="stApp"][data-test-script-state="notRunning"]'
MODEL = "birds_resnet10_tuned"
BINS = 'img[alt*="mean map of"]:not([alt$=", 0 items"])'
CANCEL, PROGRESS = ".st-key-s_Cancel button", '[data-testid="stProgress"]'
PAGES = {
    "": MAPS,
    "aggregate": ".st-key-a_start button:enabled",
    "scores": ".st-key-s_Start button:enabled",
    "studies": ".st-key-t_start button:enabled",
    "learn": "text=What you see.",
    "library": '[data-testid="stDataFrame"]',
}


def settle(page: Page, selector: str) -> None:
    """Wait until the selector matches and the page's script is idle."""
    page.wait_for_selector(selector)
    page.wait_for_selector(RESTS, state="attached")


def opened(browser: Browser, url: str, selector: str) -> float:
    """Return the seconds until a page, visited in a new session, is interactive."""
    start = time.perf_counter()
    page = visit(browser, url)
    settle(page, selector)
    seconds = time.perf_counter() - start
    page.context.close()
    return seconds


def empty(browser: Browser, folder: Path) -> float:
    """Return the seconds until a page with a single word is interactive: the share of Streamlit."""
    script = folder / "empty.py"
    script.write_text("import streamlit as st\n\nst.markdown('empty')\n")
    with serve(script) as app:
        return min(opened(browser, app, "text=empty") for _ in range(3))


def navigate(page: Page, name: str, selector: str) -> float:
    """Return the seconds from a click in the navigation until the page is interactive."""
    start = time.perf_counter()
    page.click(f'[data-testid="stSidebarNavLink"][href$="/{name}"]')
    settle(page, selector)
    return time.perf_counter() - start


def move(page: Page, slider: str, pictures: str, key: str = "ArrowRight") -> float:
    """Return the seconds from a key press on a slider until some pictures have changed and all are decoded.

    Args:
        page: Page with the slider.
        slider: Key of the slider.
        pictures: CSS selector of the pictures.
        key: Key to press.
    """
    before = page.locator(pictures).evaluate_all("all => all.map(img => img.src)")
    page.locator(f".st-key-{slider} [role=slider], .st-key-{slider} input[type=range]").first.focus()
    start = time.perf_counter()
    page.keyboard.press(key)
    page.wait_for_function(
        """([pictures, before]) => {
            const now = [...document.querySelectorAll(pictures)];
            return now.length >= before.length && now.every(img => img.complete) && now.some(img => !before.includes(img.src));
        }""",
        arg=[pictures, before],
    )
    return time.perf_counter() - start


def clicked(page: Page, button: str, shown: str) -> float:
    """Return the seconds from a click until `shown` appears."""
    start = time.perf_counter()
    page.click(button)
    page.wait_for_selector(shown)
    return time.perf_counter() - start


def report(label: str, seconds: Sequence[float]) -> None:
    """Print the median and the 95th percentile of times, and their number."""
    p50, p95 = np.percentile(seconds, [50, 95])
    print(f"{label}: p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms, n = {len(seconds)}", flush=True)


def opacity(browser: Browser, app: str) -> None:
    """Measure the opacity slider of Inspect."""
    page = visit(browser, app)
    settle(page, MAPS)
    move(page, "opacity", MAPS, "Home")
    report("Inspect, opacity to picture", [move(page, "opacity", MAPS) for _ in range(20)])
    page.context.close()


def smoothing(browser: Browser, app: str, grids: int) -> None:
    """Measure the smoothing slider of Aggregate on a number of grids."""
    page = visit(browser, f"{app}/aggregate?model={MODEL}&data=birds&setting=difull&methods=IxG@Input&limit={grids}&smoothing=9")
    settle(page, PAGES["aggregate"])
    page.click(PAGES["aggregate"])
    page.wait_for_selector(BINS)
    settle(page, BINS)
    report(f"Aggregate, smoothing to pictures of {grids} grids", [move(page, "a_smoothing", BINS) for _ in range(10)])
    page.context.close()


def start_and_cancel(browser: Browser, app: str, seed: int = 0) -> tuple[float, float]:
    """Return the seconds from a click on Start to progress, and from a click on Cancel until the run has stopped."""
    page = visit(browser, f"{app}/scores?model={MODEL}&data=birds&protocols=idsds&methods=IG:steps=200&limit=all&seed={seed}")
    settle(page, PAGES["scores"])
    started = clicked(page, PAGES["scores"], PROGRESS)
    page.wait_for_selector(f"{PROGRESS}:has-text(' results')")
    stopped = clicked(page, CANCEL, "text=was cancelled after")
    page.context.close()
    return started, stopped


def use(browser: Browser, app: str, seed: int) -> None:
    """Simulate one round of a visitor: every page, maps and scores that are not cached, and a cancelled run."""
    for name, selector in PAGES.items():
        opened(browser, f"{app}/{name}", selector)
    opened(browser, f"{app}?methods=SmoothGrad@Input:samples=8,Random@Input,IxG@Middle,Grad-CAM&seed={seed}", MAPS)
    page = visit(browser, f"{app}/aggregate?model={MODEL}&data=birds&setting=difull&methods=IxG@Input&limit=20&seed={seed}&smoothing=9")
    settle(page, PAGES["aggregate"])
    page.click(PAGES["aggregate"])
    settle(page, BINS)
    move(page, "a_smoothing", BINS)
    page.context.close()
    start_and_cancel(browser, app, seed)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="duration of the use")
    parser.add_argument("--grids", type=int, default=50, help="number of grids for the smoothing slider")
    options = parser.parse_args()
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ATTRLIB_CACHE"] = cache
        with serve() as app, chromium() as browser:
            # The browser is a child of Playwright's driver.
            server = next(child for child in psutil.Process().children() if "streamlit" in child.cmdline())

            def memory(when: str) -> None:
                print(f"server {when}: {server.memory_info().rss >> 20} MiB", flush=True)

            memory("at the start")
            print(f"an empty page of Streamlit: {empty(browser, Path(cache)):.2f} s", flush=True)
            for name, selector in PAGES.items():
                first, second = (opened(browser, f"{app}/{name}", selector) for _ in range(2))
                print(f"{name or 'inspect'}: interactive after {first:.2f} s, in a second session {second:.2f} s", flush=True)
            page = visit(browser, app)
            settle(page, MAPS)
            for _ in range(2):
                seconds = {name or "inspect": navigate(page, name, selector) for name, selector in reversed(PAGES.items())}
            print("cached:", ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), flush=True)
            page.context.close()
            memory("with every page visited")
            opacity(browser, app)
            smoothing(browser, app, options.grids)
            started, stopped = start_and_cancel(browser, app)
            print(f"Scores: Start to progress {1000 * started:.0f} ms, Cancel to stopped {1000 * stopped:.0f} ms", flush=True)
            begin, seed = time.monotonic(), 1
            while time.monotonic() < begin + 60 * options.minutes:
                use(browser, app, seed)
                memory(f"after {(time.monotonic() - begin) / 60:.1f} min, {seed} rounds")
                seed += 1


if __name__ == "__main__":
    main()
