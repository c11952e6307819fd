"""A lecture in a real browser: the keys, the presenter's screen and one lesson, with the shipped models."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import chromium, serve, settle, visit

from pages.learn import lessons  # noqa: F401  which registers them
from pages.learn.lesson import LESSONS

pytestmark = pytest.mark.browser
NAMES = list(LESSONS)
WIDTH, HEIGHT = 1400, 900
KEYS_WORK = """() => {
    const repeated = new KeyboardEvent('keydown', {key: 'ArrowLeft', repeat: true, bubbles: true, cancelable: true});
    return !document.body.dispatchEvent(repeated);
}"""
"""Whether somebody takes the keys: what listens comes shortly after a page's first look. A repeated key moves nothing."""
ANSWERS = """before => !location.search.includes(`lesson=${before}&`)
    || document.querySelector('[data-testid="stApp"]').dataset.testScriptState !== 'notRunning'"""
"""Whether the server has begun to draw what was asked for since a lesson, or has drawn it."""


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
    page = visit(browser, width=WIDTH, height=HEIGHT)
    yield page
    page.context.close()


def wait_for(page: Page, lesson: str) -> None:
    """Waits until a lesson stands there, with what to see and keys that move on."""
    page.wait_for_url(f"**lesson={lesson}&**")
    settle(page)
    expect(page.get_by_role("heading", name=LESSONS[lesson].title)).to_be_visible()
    expect(page.get_by_text("What you see.")).to_be_visible()
    page.wait_for_function(KEYS_WORK)


def test_keys_move_through_the_lecture_and_leave_sliders_alone(app, page):
    page.goto(f"{app}/learn?lesson=leakage&birds=25&present=true")
    wait_for(page, "leakage")
    expect(page.locator('[data-testid="stSidebar"]')).to_be_hidden()
    page.keyboard.press("ArrowRight")
    wait_for(page, "idsds")
    thumb = page.locator(".st-key-learn_idsds_cell [role=slider], .st-key-learn_idsds_cell input[type=range]").first
    thumb.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**cell=7**")
    wait_for(page, "idsds")
    page.keyboard.press("PageUp")
    wait_for(page, "leakage")
    page.keyboard.press("p")
    page.wait_for_url("**present=false**")
    expect(page.locator('[data-testid="stSidebar"]')).to_be_visible()


def test_a_control_used_with_the_mouse_does_not_keep_the_keys(app, page):
    page.goto(f"{app}/learn?lesson=deletion&birds=4&present=true")
    wait_for(page, "deletion")
    track = page.locator(".st-key-learn_deletion_step [data-testid=stSlider]").bounding_box()
    assert track is not None
    page.mouse.click(track["x"] + 0.7 * track["width"], track["y"] + 0.75 * track["height"])
    page.wait_for_url(re.compile("step=1[0-2]"))
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**lesson=leakage&**")
    page.keyboard.press("PageUp")
    wait_for(page, "deletion")
    page.get_by_role("radio", name="IxG").click()
    page.wait_for_url("**order=IxG**")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**lesson=leakage&**")
    page.keyboard.press("PageDown")
    wait_for(page, "idsds")
    method = page.locator(".st-key-learn_idsds_method").get_by_role("combobox")
    method.click()
    page.get_by_role("option", name="Grad-CAM").click()
    page.wait_for_url("**method=Grad-CAM**")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**lesson=grids&**")


def test_all_of_several_quick_presses_count(app, page):
    page.goto(f"{app}/learn?lesson={NAMES[0]}")
    wait_for(page, NAMES[0])
    for _ in range(2):
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        # The others come while the page is drawn for these.
        page.wait_for_function(ANSWERS, arg=NAMES[0])
    page.wait_for_url(f"**lesson={NAMES[6]}&**")


def test_the_presenter_comes_and_goes_by_keyboard_and_nothing_covers_the_lesson(app, page):
    page.goto(f"{app}/learn?lesson=leakage&birds=25")
    wait_for(page, "leakage")
    page.get_by_role("button", name="Present").focus()
    expect(page.get_by_text("Large type")).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_url("**present=true**")
    page.keyboard.press("ArrowRight")
    wait_for(page, "idsds")
    expect(page.get_by_text("Large type")).to_have_count(0)
    page.locator(".st-key-learn_idsds_method").get_by_role("combobox").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    page.locator(".st-key-learn_pictures img").first.hover()
    page.get_by_role("button", name="Fullscreen: ").first.click()
    expect(page.get_by_role("button", name="Close fullscreen")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Close fullscreen")).to_have_count(0)
    # The server answers in order: had one of these keys meant leaving, it would have left before it moved on.
    page.keyboard.press("PageDown")
    wait_for(page, "grids")
    assert "present=true" in page.url
    expect(page.locator('[data-testid="stSidebar"]')).to_be_hidden()
    page.keyboard.press("Escape")
    page.wait_for_url("**present=false**")
    expect(page.locator('[data-testid="stSidebar"]')).to_be_visible()


def test_a_lesson_before_an_audience_fits_on_one_screen_and_its_link_opens_the_same(app, page):
    page.goto(f"{app}/learn?lesson=idsds&present=true&cell=7")
    wait_for(page, "idsds")
    page.wait_for_function(
        """() => {
            const main = document.querySelector('[data-testid="stMain"]');
            return main.scrollHeight <= main.clientHeight && main.scrollWidth <= main.clientWidth;
        }"""
    )
    page.locator(".st-key-learn_idsds_method").get_by_role("combobox").click()
    page.get_by_role("option", name="Grad-CAM").click()
    page.wait_for_url("**method=Grad-CAM**")
    score = page.get_by_text(re.compile("For this bird, Grad-CAM scores"))
    expect(score).to_be_visible()
    words = score.inner_text()
    page.goto(page.url)
    wait_for(page, "idsds")
    expect(page.get_by_text(words)).to_be_visible()
    page.set_viewport_size({"width": 800, "height": 600})
    page.wait_for_function("document.querySelector('.st-key-learn_pictures img')?.getBoundingClientRect().bottom < innerHeight")
