"""What a person does, in a real browser."""

import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from support.browser import MAPS, chromium, serve, settle, visit, wait_for_change, wait_for_maps
from support.gate import Gate

import attrlib  # noqa: F401

pytestmark = pytest.mark.browser
DEFAULTS = ["Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """What `Held` waits at; it stays closed."""
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def app(gate: Gate) -> Iterator[str]:
    with serve(gate=gate) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def durations(page: Page) -> list[str]:
    """How long each map took, as the tiles say, all at one moment."""
    texts = page.locator('[data-testid="tile-line"]').evaluate_all("all => all.map(own => own.innerText)")
    return [text for text in texts if re.search(r"· [\d.]+ (ms|s|min)$", text)]


def press(page: Page, key: str, arrow: str, times: int = 1) -> None:
    thumb = page.locator(f".st-key-{key} input[type=range], .st-key-{key} [role=slider]").first
    thumb.focus()
    for _ in range(times):
        page.keyboard.press(arrow)


def test_the_first_visit_shows_four_maps_of_a_real_photo_without_a_click(app, browser):
    page = visit(browser, app)
    wait_for_maps(page, 4)
    for name in ["Photo", *DEFAULTS]:
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    expect(page.get_by_label("Most probable classes")).to_contain_text("cat")


def test_moving_the_smoothing_changes_the_pictures_and_the_link(app, browser):
    page = visit(browser, app)
    before = wait_for_maps(page, 4)
    times = durations(page)
    assert len(times) == 4
    press(page, "smoothing", "ArrowRight", 9)
    wait_for_change(page, before)
    page.wait_for_url("**smoothing=17**")
    settle(page)
    assert durations(page) == times


def test_an_uploaded_photo_is_explained(app, browser, tmp_path):
    Image.effect_noise((400, 300), 60).convert("RGB").save(tmp_path / "noise.png")
    page = visit(browser, app)
    before = wait_for_maps(page, 4)
    page.get_by_role("button", name="Upload a photo").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "noise.png")
    wait_for_change(page, before)
    page.keyboard.press("Escape")
    expect(page.get_by_role("combobox", name="Photo")).to_have_value("noise.png")


def test_what_was_chosen_stays_with_another_photo_whose_classes_have_other_labels(app, browser):
    page = visit(browser, f"{app}?methods=IxG&image=sample:cat")
    wait_for_maps(page, 1)
    target = page.get_by_role("combobox", name="Class", exact=True)
    expect(target).to_have_value(re.compile("predicted: tiger cat"))
    for box, option in (("Photo", "coffee"), ("Layer", re.compile("^Final"))):
        before = wait_for_maps(page, 1)
        page.get_by_role("combobox", name=box, exact=True).click()
        page.get_by_role("option", name=option).click()
        wait_for_change(page, before)
    expect(target).to_have_value(re.compile("predicted: espresso"))
    expect(page.get_by_text("does not exist")).to_have_count(0)


def test_why_one_class_rather_than_another_takes_one_click_and_another_takes_it_back(app, browser):
    page = visit(browser, f"{app}?methods=Grad-CAM&image=sample:cat")
    logit = wait_for_maps(page, 1)
    page.get_by_role("button", name="vs").nth(1).click()
    wait_for_change(page, logit)
    page.wait_for_url("**versus**")
    expect(page.get_by_text("tiger cat rather than tabby").first).to_be_visible()
    expect(page.get_by_role("button", name="Target: versus")).to_be_visible()
    page.get_by_role("button", name="vs").nth(1).click()
    expect(page.get_by_role("button", name="Target: logit")).to_be_visible()
    settle(page)
    assert wait_for_maps(page, 1) == logit


def test_a_file_that_is_no_picture_gets_a_message_and_the_app_goes_on(app, browser, tmp_path):
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    page = visit(browser, app)
    wait_for_maps(page, 4)
    page.get_by_role("button", name="Upload a photo").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "letter.png")
    expect(page.get_by_text("is not a picture that can be read")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="Photo").click()
    page.get_by_role("option", name="coffee").click()
    wait_for_maps(page, 4)


def test_a_shared_link_opens_the_same_view_for_somebody_else(app, browser):
    page = visit(browser, f"{app}?methods=IxG@Middle,Sobel@Input&sign=absolute&smoothing=9&image=sample:coffee")
    mine = wait_for_maps(page, 2)
    page.get_by_role("button", name="Reproduce").click()
    link = page.locator('[data-testid="stCode"] code').first.inner_text().replace("\n", "")
    assert link.startswith(app)
    theirs = visit(browser, link)
    assert wait_for_maps(theirs, 2) == mine
    for words in ("IxG", "Sobel", "Middle 28×28", "Input 224×224"):
        expect(theirs.get_by_text(words, exact=False).first).to_be_visible()


def test_a_link_with_nonsense_says_so_and_works(app, browser):
    page = visit(browser, f"{app}?model=resnet5000&methods=Gard-CAM&smoothing=4")
    wait_for_maps(page, 4)
    for words in ("Unknown model", "Did you mean Grad-CAM", "must be odd"):
        expect(page.get_by_text(words, exact=False).first).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_text("Unknown model", exact=False)).to_have_count(0)


def test_two_people_work_at_once_and_quick_maps_do_not_wait_for_slow_ones(app, browser):
    slow = visit(browser, f"{app}?methods=Held@Input&image=sample:motorcycle")
    expect(slow.get_by_role("button", name="Cancel")).to_be_visible()
    quick = visit(browser, f"{app}?methods=IxG@Input,Sobel@Input&image=sample:astronaut")
    wait_for_maps(quick, 2)
    assert slow.locator(MAPS).count() == 0
    slow.get_by_role("button", name="Cancel").click()
    expect(slow.get_by_text("Cancelled", exact=False).first).to_be_visible()
    slow.get_by_role("button", name="Try again").click()
    expect(slow.get_by_text(re.compile(r"\d (s|min|h)\b.* left")).last).to_be_visible()
    slow.get_by_role("button", name="Cancel").click()
    expect(slow.get_by_text("Cancelled", exact=False).first).to_be_visible()


def test_the_panel_can_be_downloaded(app, browser):
    page = visit(browser, app)
    wait_for_maps(page, 4)
    page.get_by_role("button", name="Save").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Panel (PNG)").click()
    with Image.open(download.value.path()) as panel:
        assert panel.format == "PNG"
        assert panel.width > 5 * 448


@pytest.mark.parametrize("width", [1400, 800])
def test_nothing_scrolls_sideways_and_tiles_stay_large_enough(app, browser, width):
    page = visit(browser, app, width)
    wait_for_maps(page, 4)
    assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 2")
    boxes = [page.locator(MAPS).nth(i).bounding_box() for i in range(4)]
    assert all(box is not None and box["width"] >= 160 and abs(box["width"] - box["height"]) < 2 for box in boxes)
