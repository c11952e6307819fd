"""A lecture in a real browser: the keys, the presenter's screen and one lesson, with the shipped models."""

import re
from collections.abc import Iterator

import pytest
from browser import SLOW, chromium, serve
from playwright.sync_api import Browser, Page, expect

from pages.parts.learn import lessons  # noqa: F401  which registers them
from pages.parts.learn.lesson import LESSONS

pytestmark = pytest.mark.browser
NAMES = list(LESSONS)
WIDTH, HEIGHT = 1400, 900


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        with serve() as url:
            yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page = context.new_page()
    page.set_default_timeout(SLOW)
    yield page
    context.close()


def wait_for(page: Page, lesson: str) -> None:
    """Waits until a lesson stands there, with what to see."""
    page.wait_for_url(f"**lesson={lesson}&**", timeout=SLOW)
    expect(page.get_by_role("heading", name=LESSONS[lesson].title)).to_be_visible(timeout=SLOW)
    expect(page.get_by_text("What to see.")).to_be_visible(timeout=SLOW)
    expect(page.locator('[data-testid="stException"]')).to_have_count(0)


def test_keys_move_through_the_lecture_and_leave_sliders_alone(app, page):
    page.goto(f"{app}/learn?lesson=leakage&birds=25&present=true")
    wait_for(page, "leakage")
    expect(page.locator('[data-testid="stSidebar"]')).to_be_hidden()
    page.keyboard.press("ArrowRight")
    wait_for(page, "idsds")
    thumb = page.locator(".st-key-learn_idsds_cell [role=slider], .st-key-learn_idsds_cell input[type=range]").first
    thumb.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**cell=7**", timeout=SLOW)
    wait_for(page, "idsds")
    page.mouse.click(WIDTH - 5, HEIGHT - 5)
    page.keyboard.press("PageUp")
    wait_for(page, "leakage")
    page.keyboard.press("p")
    page.wait_for_url("**present=false**", timeout=SLOW)
    expect(page.locator('[data-testid="stSidebar"]')).to_be_visible()


def test_a_lesson_before_an_audience_fits_on_one_screen_and_its_link_opens_the_same(app, page):
    page.goto(f"{app}/learn?lesson=idsds&present=true&cell=7")
    wait_for(page, "idsds")
    page.wait_for_function(
        """() => {
            const main = document.querySelector('[data-testid="stMain"]');
            return main.scrollHeight <= main.clientHeight && main.scrollWidth <= main.clientWidth;
        }""",
        timeout=SLOW,
    )
    page.locator(".st-key-learn_idsds_method").get_by_role("combobox").click()
    page.get_by_role("option", name="Grad-CAM").click()
    page.wait_for_url("**method=Grad-CAM**", timeout=SLOW)
    score = page.get_by_text(re.compile("For this bird and Grad-CAM the score is"))
    expect(score).to_be_visible(timeout=SLOW)
    words = score.inner_text()
    page.goto(page.url)
    wait_for(page, "idsds")
    expect(page.get_by_text(words)).to_be_visible(timeout=SLOW)
