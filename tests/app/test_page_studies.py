"""The page Studies: every state without a browser, and one study from question to finding in one."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest
from support.browser import chromium, serve, visit
from support.pages import Checkpoints, buttons, nodes, open_page, press, until, words
from support.runs import classifier, pictures
from support.waiting import PAUSE

import pages.shared.jobs
import pages.studies.run_panel
from attrlib.specs import StudySpec
from attrlib.studies import list_studies
from pages.studies import choice, run_panel

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = "efficientnet_lite0@tiny"
MODEL = classifier()


@pytest.fixture(autouse=True)
def _small_model(checkpoints: Checkpoints) -> None:
    checkpoints({"tiny": MODEL})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures(tmp_path / "pictures")


def start(**query: object) -> AppTest:
    return open_page("studies", **query)


def small(data: Path, **query: object) -> AppTest:
    return start(**{"study": "robustness:limit=3", "models": TINY, "methods": "IxG,Random", "data": data} | query)


def ready(at: AppTest) -> AppTest:
    return until(at, lambda at: "of memory" in words(at))


def done(at: AppTest) -> AppTest:
    return until(at, lambda at: "Run again" in buttons(at))


def test_a_study_that_was_never_run_shows_question_papers_and_budget() -> None:
    at = until(start(), lambda at: "Run the study" in buttons(at))
    first = list_studies()[0]
    assert first.question in words(at)
    assert f"about **{first.minutes:g} minutes** on one core" in words(at)
    assert "BagNet-33 .80" in words(at)
    assert at.query_params["study"] in (first.name, [first.name])
    assert not nodes(at, "plotly_chart")


@pytest.mark.parametrize("name", [info.name for info in list_studies()])
def test_every_study_opens_by_its_link(name: str) -> None:
    at = until(start(study=name), lambda at: "Run the study" in buttons(at))
    assert next(info.question for info in list_studies() if info.name == name) in words(at)


def test_a_run_leads_to_finding_figure_table_and_export(data: Path) -> None:
    at = ready(small(data))
    assert "30 results are missing, 0 are cached" in words(at)
    at = done(press(at, "Run the study"))
    text = words(at)
    assert "is most robust to rotation" in text
    assert "What the papers report" in text
    assert "results computed now" in text
    assert len(nodes(at, "plotly_chart")) == 1
    table = at.dataframe[0].value
    assert set(table["method"]) == {"IxG", "Random"}
    assert len(table) == 10
    links = [c.value for c in at.code]
    assert any(v.startswith("python -m attrlib study robustness:limit=3") for v in links)
    assert any("study('robustness:limit=3'" in v for v in links)


def test_results_in_the_store_appear_without_a_click(data: Path) -> None:
    at = done(press(ready(small(data)), "Run the study"))
    spec, problems = at.session_state["t_study"], at.session_state["t_problems"]
    assert (spec, problems) == ("robustness", [])
    for job in list(pages.shared.jobs.device_queue()._jobs.values()):
        job.forget()
    again = done(small(data))
    assert "0 results computed now, 30 cached" in words(again)


def test_a_study_can_be_cancelled_and_resumed(data: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    opened, real = threading.Event(), pages.studies.run_panel.run_study
    request.addfinalizer(opened.set)

    def gated(spec: Any, store: Any, on_progress: Any, load: Any, dataset: Any) -> Any:
        def watched(event: Any) -> None:
            on_progress(event)
            while event.share > 0.1 and not opened.wait(PAUSE):
                on_progress(event)

        return real(spec, store, watched, load, dataset)

    monkeypatch.setattr(pages.studies.run_panel, "run_study", gated)
    at = until(
        press(ready(small(data)), "Run the study"),
        lambda at: "Cancel" in buttons(at) and " %" in str([n.proto.text for n in nodes(at, "progress")]),
    )
    at = until(press(at, "Cancel"), lambda at: "Resume" in buttons(at))
    assert "Cancelled, " in words(at)
    opened.set()
    assert "most robust to rotation" in words(done(press(at, "Resume")))


def test_a_link_with_nonsense_says_so_and_works() -> None:
    at = until(start(study="rankings", models="resnet5000", methods="Gard-CAM", colour="red"), lambda at: "Run the study" in buttons(at))
    warnings = " ".join(w.value for w in at.warning).replace("\\", "")
    for part in ("Did you mean ranking", "nknown model", "nknown field of the link"):
        assert part in warnings
    at = press(at, "Dismiss")
    assert not [w for w in at.warning if "rankings" in w.value]


def test_what_cannot_be_studied_says_why(data: Path) -> None:
    at = until(small(data, study="design:limit=3"), lambda at: "of memory" in words(at))
    at = until(press(at, "Run the study"), lambda at: bool(at.error))
    assert "No two of these models differ in exactly one factor" in words(at)


def test_data_that_the_app_may_not_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", str(tmp_path / "allowed"))
    at = until(start(study="robustness:limit=3", models="efficientnet_lite0", data="/etc"), lambda at: bool(at.error))
    assert "neither the name of a data set nor in a folder that this app may read" in words(at)


def test_controls_and_spec_say_the_same(data: Path) -> None:
    at = ready(small(data, seed=3, study="robustness:limit=3:passes=4"))
    assert at.session_state["t_limit"] == 3
    assert dict(at.session_state["t_params"]["robustness"]) == {"passes": 4}
    assert at.query_params["seed"] in ("3", ["3"])
    assert choice.default() == StudySpec("ranking")
    assert run_panel.find(StudySpec("settings", (("limit", 7),))) is None


# In a browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        with serve() as url:
            yield url


@pytest.mark.browser
def test_a_person_asks_a_question_and_shares_the_finding(app: str) -> None:
    with chromium() as browser:
        page = visit(browser, f"{app}/studies?study=robustness:limit=2&models=birds_resnet10&methods=IxG,Random")
        page.get_by_role("button", name="Run the study").click()
        expect(page.get_by_text("is most robust to rotation").first).to_be_visible()
        expect(page.locator(".js-plotly-plot").first).to_be_visible()
        assert page.locator('[data-testid="stException"]').count() == 0
        page.get_by_role("button", name="Reproduce").click()
        link = page.locator('[data-testid="stCode"] code').first.inner_text().replace("\n", "")
        other = visit(browser, link, 800)
        expect(other.get_by_text("is most robust to rotation").first).to_be_visible()
        assert not other.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 2")
