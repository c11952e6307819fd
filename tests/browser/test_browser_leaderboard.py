"""The static leaderboard in a real browser: sorted, filtered and searched from a file, with hostile names."""

from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import expect
from support.browser import chromium
from support.runs import classifier, pictures

import attrlib
from attrlib.store import Store
from attrlib.submissions import made_of, make_board, write_site

pytestmark = pytest.mark.browser


def test_the_page_sorts_filters_and_searches(tmp_path: Path) -> None:
    data = pictures(tmp_path / "pictures", 2)
    with closing(Store(folder=tmp_path / "store")) as store:
        attrlib.compare(["sds:grid=2", "entropy"], classifier(), ["IxG", "Grad-CAM", "Random"], data, limit=6, store=store)
        (run,) = store.runs()
        submission = made_of(run, store.records, "1.0", "<img src=x onerror=document.title=1>")
    board = make_board({"one.json": submission})
    write_site(board, [], tmp_path / "site")
    with chromium() as browser:
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: request.url.startswith("file:") or problems.append(request.url))
        page.goto((tmp_path / "site" / "index.html").as_uri())
        rows = page.locator("#board tbody tr:visible")
        expect(rows).to_have_count(6)
        page.get_by_label("Protocol").select_option("entropy")
        expect(rows).to_have_count(3)
        page.get_by_label("Method").fill("grad")
        expect(rows).to_have_count(1)
        expect(page.locator("#count")).to_have_text("1 of 6 rows")
        page.get_by_label("Method").fill("")
        page.get_by_label("Protocol").select_option("")
        for descending in (False, True):
            page.get_by_role("button", name="Mean").click()
            values = [float(cell.get_attribute("data-value") or "nan") for cell in page.locator("#board tbody tr td:nth-child(6)").all()]
            assert values == sorted((entry.place.summary.mean for entry in board), reverse=descending)
        expect(page).to_have_title("Attribution leaderboard")
        assert not problems
