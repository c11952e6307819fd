"""What a person does on the pages Scores and Aggregate in a real browser, with the shipped models on the embedded data."""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import chromium, pictures, serve, visit, wait_for_change, wait_for_maps
from support.gate import Gate

from attrlib.store import Store

pytestmark = pytest.mark.browser
MODEL = "birds_resnet10_tuned"
ITEMS = 24
METHODS = ["IxG", "Grad-CAM", "Held", "Gradient", "Guided Backprop", "Random"]
SCORES = f"scores?model={MODEL}&data=birds&protocols=idsds,difull&methods={','.join(METHODS)}&limit={ITEMS}"
TOTAL = 2 * len(METHODS) * ITEMS
LONG = f"scores?model={MODEL}&data=birds&protocols=idsds&methods=Held&limit=50"
AGGREGATE = f"aggregate?model={MODEL}&data=birds&setting=difull&methods=IxG@Input,IxG@Middle&limit=20&seed=1"
BINS = 'img[alt*="mean map of"]'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own for all that the server of these tests keeps."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRLIB_CACHE", str(folder))
        for name in ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """What `Held` waits at."""
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def app(cache: Path, gate: Gate) -> Iterator[str]:
    with serve(gate=gate) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _alone(browser: Browser) -> Iterator[None]:
    """Leaves no page of one test open in the next, where it would go on asking the server."""
    yield
    for context in browser.contexts:
        context.close()


@pytest.fixture(scope="module")
def under_way(app: str, browser: Browser, gate: Gate) -> str:
    """The link of a run that is held and ends with the server: the tests that need it come last, as other runs wait for it."""
    gate.close()
    page = visit(browser, f"{app}/{LONG}")
    press(page, "s_Start")
    gate.let(1)
    far(page, 1)
    return page.url


def press(page: Page, key: str) -> None:
    """Clicks the button of that key: others may have the same words."""
    button = page.locator(f".st-key-{key}").get_by_role("button")
    expect(button).to_be_enabled()
    button.click()


def far(page: Page, least: int) -> int:
    """Waits until a run has at least so many results, one or more; how many it has."""
    found = page.wait_for_function(
        """least => {
            const bar = document.querySelector('[data-testid="stProgress"]');
            const found = bar && bar.innerText.match(/(\\d+) of \\d+ results/);
            return found && Number(found[1]) >= least && Number(found[1]);
        }""",
        arg=least,
    )
    return int(found.json_value())


def named(page: Page, table: str) -> Locator:
    """The table of that name, which only its buttons bear."""
    return page.locator('[data-testid="stDataFrame"]', has=page.locator(f'[aria-label="Search: {table}"]'))


def wait_for_worst(page: Page, items: list[dict[str, str]]) -> None:
    """Waits until the worst of these items is shown, the image and the map over it."""
    value = min(float(row["value"]) for row in items)
    for what in ("the picture", "the map over the picture"):
        expect(page.locator(f'img[alt^="Worst {value:.3f}: {what}, "]')).to_be_visible()


def table(page: Page, button: str) -> list[dict[str, str]]:
    """The rows of a file from the popover that is open."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))


def test_a_link_to_any_page_leads_to_all_others(app, browser):
    page = visit(browser, f"{app}/library")
    links = page.locator('[data-testid="stSidebarNavLink"]')
    expect(page.get_by_text("What is available?")).to_be_visible()
    expect(links).to_contain_text(["Inspect", "Aggregate", "Scores", "Library"])
    links.filter(has_text="Scores").click()
    expect(page.get_by_text("Which method can I trust on this model?")).to_be_visible()


def test_a_run_is_watched_cancelled_resumed_and_read_down_to_its_worst_image(app, browser, gate):
    page = visit(browser, f"{app}/{SCORES}")
    expect(page.get_by_text(f"{TOTAL} results, 0 % cached")).to_be_visible()
    press(page, "s_Start")
    expect(named(page, f"Scores of {MODEL} so far, best first")).to_be_visible()
    press(page, "s_Cancel")
    cancelled = page.get_by_text("Cancelled, ")
    expect(cancelled).to_be_visible()
    before, total = map(int, re.findall(r"(\d+) of (\d+) results", cancelled.inner_text())[0])
    assert 0 < before < total == TOTAL
    gate.open()
    press(page, "s_Resume")
    expect(page.get_by_text(f"{TOTAL - before} results computed, {before} cached")).to_be_visible()

    page.get_by_role("button", name="Export").click()
    ranking = table(page, "Leaderboard (CSV)")
    items = table(page, "Every item (CSV)")
    page.keyboard.press("Escape")
    assert len(items) == TOTAL
    assert len(ranking) == 2 * len(METHODS)
    first, *_ = (row["method"] for row in ranking if row["protocol"] == "idsds")
    *_, last = (row["method"] for row in ranking if row["protocol"] == "difull")
    chosen = page.get_by_role("combobox", name="Example images for")
    expect(chosen).to_have_value(first)
    wait_for_worst(page, [row for row in items if (row["protocol"], row["method"]) == ("idsds", first)])

    page.get_by_role("radiogroup", name="Protocol").get_by_text("DiFull").click()
    board = named(page, f"DiFull on {MODEL}, best first")
    expect(board).to_be_visible()
    board.click(position={"x": 120, "y": 36 * (len(METHODS) + 0.5)})
    expect(chosen).to_have_value(last)
    wait_for_worst(page, [row for row in items if (row["protocol"], row["method"]) == ("difull", last)])


def test_agreement_of_protocols_is_shown_and_saved_as_a_picture(app, browser):
    page = visit(browser, f"{app}/{SCORES}".replace(f"limit={ITEMS}", "limit=8").replace("difull", "mass"))
    press(page, "s_Start")
    plots = page.get_by_role("combobox", name="Plot")
    expect(plots).to_be_visible()
    plots.click()
    page.get_by_role("option", name="Agreement on methods").click()
    camera = page.locator(".modebar-btn")
    expect(page.locator(".main-svg").get_by_text("Mass inside").first).to_be_visible()
    with page.expect_download() as download:
        camera.first.click()
    assert download.value.suggested_filename == "agreement-on-methods.png"
    with Image.open(download.value.path()) as picture:
        assert picture.width > 400


def test_the_smoothing_of_an_aggregate_view_moves_its_maps_and_computes_nothing(app, browser, cache):
    page = visit(browser, f"{app}/{AGGREGATE}")
    expect(page.get_by_text("40 results, 0 % cached")).to_be_visible()
    press(page, "a_Start")
    middle = page.locator(f'{BINS}[alt*="9 items"]')
    expect(middle).to_have_count(4)
    expect(page.get_by_role("button", name="Run again")).to_be_visible()
    drawn, kept = pictures(middle), known(cache)
    thumb = page.locator(".st-key-a_smoothing [role=slider], .st-key-a_smoothing input[type=range]").first
    thumb.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.wait_for_url("**smoothing=39**")
    wait_for_change(page, drawn, f'{BINS}[alt*="9 items"]')
    assert known(cache) == kept
    expect(page.get_by_role("button", name="Run again")).to_be_visible()

    press(page, "a_bin_1_3")
    expect(page.get_by_text("IxG at Middle, bin 50–95 %: 9 of 20, best first")).to_be_visible()
    tiles = page.locator('img[alt^="Map number"]')
    expect(tiles).to_have_count(9)
    scores = [float(re.findall(r"score ([\d.]+)\.", tiles.nth(i).get_attribute("alt") or "")[0]) for i in range(9)]
    assert scores == sorted(scores, reverse=True)

    click_at(page, page.locator(".st-key-a_boxes path.point").first)
    expect(page.get_by_text("all 20, best first")).to_be_visible()
    expect(page.locator(".st-key-a_images").get_by_text("ads_click")).to_have_count(1)
    assert known(cache) == kept


def click_at(page: Page, place: Locator) -> None:
    """Where it is, whatever lies over it: a plot takes its clicks on a sheet of its own."""
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def known(cache: Path) -> tuple[int, ...]:
    """How many maps and results a store holds."""
    with closing(Store(folder=cache)) as store:
        sizes = store.sizes()
    return sizes.maps, sizes.records


def test_maps_of_one_person_do_not_wait_for_the_run_of_another(app, browser, under_way, gate):
    slow = visit(browser, under_way)
    before = far(slow, 1)
    quick = visit(browser, f"{app}?methods=IxG@Input,Grad-CAM@Final&image=sample:coffee")
    wait_for_maps(quick, 2)
    gate.let(1)
    far(slow, before + 1)
    expect(slow.locator(".st-key-s_Cancel").get_by_role("button")).to_be_visible()


def test_a_run_goes_on_when_its_page_is_loaded_again_or_closed(browser, under_way, gate):
    page = visit(browser, under_way)
    before = far(page, 1)
    page.reload()
    gate.let(1)
    after = far(page, before + 1)
    expect(page.locator(".st-key-s_Cancel").get_by_role("button")).to_be_visible()
    page.context.close()
    gate.let(1)
    other = visit(browser, under_way)
    far(other, after + 1)
    expect(other.locator(".st-key-s_Cancel").get_by_role("button")).to_be_visible()
