"""The dialog "Add a model" in a real browser: from the file to the first map."""

import os
from collections.abc import Iterator
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from playwright.sync_api import Browser, Route, expect
from support.browser import MAPS, chromium, serve, settle, visit

from attrlib.models.added import added
from attrlib.models.cards import Card
from attrlib.models.sources import builder

pytestmark = pytest.mark.browser
NAME = "timm:resnet10t"
COUNT = 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTRLIB_ADD_MODELS", "1")
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    with serve() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def saved(folder: Path) -> Path:
    file = folder / "my_net.pth"
    torch.manual_seed(0)
    torch.save({"state_dict": builder(NAME)({"num_classes": COUNT}, False).module.state_dict()}, file)
    return file


def test_maps_that_are_done_do_not_cut_off_an_upload(browser: Browser, url: str, folder: Path) -> None:
    uploads: list[Route] = []
    page = visit(browser, f"{url}/?methods=IxG")
    page.route("**/_stcore/upload_file/**", lambda route: uploads.append(route))
    page.get_by_role("button", name="Add a model").first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator('input[type="file"]').first.set_input_files(str(saved(folder)))
    expect(page.locator(MAPS)).to_have_count(1)
    # Longer than a poll, which would rerun the page now.
    page.wait_for_timeout(1500)
    uploads[0].continue_()
    expect(dialog.get_by_role("combobox", name="Architecture")).to_be_visible()
    page.keyboard.press("Escape")
    settle(page)
    expect(page.locator(MAPS)).to_have_count(1)


def test_a_dropped_file_is_described_checked_named_and_explained(browser: Browser, url: str, folder: Path) -> None:
    file = saved(folder)
    page = visit(browser, f"{url}/?methods=IxG")
    page.get_by_role("button", name="Add a model").first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator('input[type="file"]').first.set_input_files(str(file))
    box = dialog.get_by_role("combobox", name="Architecture")
    box.fill(NAME)
    box.press("Enter")
    expect(dialog.get_by_text(f"{COUNT} classes")).to_be_visible()
    expect(dialog.locator('img[alt*="as the network sees it"]')).to_be_visible()
    dialog.get_by_text("A list", exact=True).click()
    names = dialog.get_by_role("textbox", name="One name per line")
    names.fill("ant\nbee\ncat")
    names.press("Control+Enter")
    expect(dialog.get_by_text("ant, bee, cat")).to_be_visible()
    name = dialog.get_by_role("textbox", name="Name", exact=True)
    expect(name).to_have_value("my_net")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog).to_have_count(0)
    settle(page)
    expect(page.locator(MAPS)).to_have_count(1)
    assert "model=my_net" in page.url
    assert Card.read(added()["my_net"]).class_names == ("ant", "bee", "cat")
    assert attrlib.load_model("my_net", "cpu").class_names == ("ant", "bee", "cat")
    assert os.listdir(folder / "models")
