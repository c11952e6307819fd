"""Retraining on the page Scores: the cost, the progress, a cancel and the curves."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from streamlit.testing.v1 import AppTest
from support.pages import Checkpoints, buttons, control, nodes, open_page, press, run, type_into, until, words
from support.planted import use_small
from support.runs import classifier, pictures

import attrlib.retraining.pool
from attrlib.retraining.pool import Task

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = "efficientnet_lite0@tiny"


@pytest.fixture(autouse=True)
def _small_models(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints({"tiny": classifier()})
    use_small(monkeypatch)


@pytest.fixture
def at(tmp_path: Path) -> AppTest:
    """The page with the section on, for five trainings: one of images as they are, and two for each of IxG and random maps."""
    at = open_page(
        "scores", model=TINY, data=pictures(tmp_path / "pictures", 6), protocols="sds:grid=2", methods="IxG", limit=6
    )  # fmt: skip
    run(at)
    assert "Retrain" not in buttons(at)
    at.toggle(key="r_open").set_value(True)
    run(at)
    for name, value in {"shares": "0.5,0.9", "seeds": 1, "size": 16, "epochs": 1, "batch": 8}.items():
        type_into(at, f"r_{name}", value)
    return run(at)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The third training waits until it is set."""
    opened, original, count = threading.Event(), attrlib.retraining.pool.execute, iter(range(100))

    def execute(task: Task, check: Any) -> int:
        if next(count) == 2:
            while not opened.wait(0.05):
                check()
        return original(task, check)

    monkeypatch.setattr(attrlib.retraining.pool, "execute", execute)
    yield opened
    opened.set()


def finished(at: AppTest) -> AppTest:
    return until(at, lambda at: bool(nodes(at, "plotly_chart")) and "networks trained now" in words(at))


def test_the_cost_is_shown_then_the_curves_and_the_ranks(at: AppTest) -> None:
    until(at, lambda at: "5 trainings on 20 images, tested on 10, are missing, 0 are cached" in words(at))
    finished(press(at, "Retrain"))
    assert "5 networks trained now, 0 cached" in words(at)
    table = at.dataframe[-1].value
    assert set(table["method"]) == {"IxG", "Random"}
    assert "ROAR: IxG not significantly different from random maps." in words(at)
    assert "Run again" in buttons(at)


def test_after_a_cancel_the_same_settings_resume(at: AppTest, gate: threading.Event) -> None:
    press(at, "Retrain")
    until(at, lambda at: "Cancel" in buttons(at) and any("2 of 5 trainings" in str(n.proto) for n in nodes(at, "progress")))
    press(at, "Cancel")
    until(at, lambda at: "Cancelled, 2 of 5 trainings computed" in words(at).replace("**", ""))
    gate.set()
    finished(press(at, "Resume"))
    assert "3 networks trained now, 2 cached" in words(at)


def test_a_share_that_is_not_valid_is_named(at: AppTest) -> None:
    type_into(at, "r_shares", "0,0.5")
    run(at)
    assert "Share 0 replaces nothing" in words(at)
    assert "Retrain" not in buttons(at)


def test_data_without_labels_are_refused_before_anything_runs(at: AppTest, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for number, file in enumerate((tmp_path / "pictures").rglob("*.png")):
        (folder / f"{number}.png").write_bytes(file.read_bytes())
    type_into(at, "s_data", str(folder))
    run(at)
    until(at, lambda at: "has no labelled images, and roar trains networks on labels" in words(at))


def test_the_controls_are_the_options_of_the_spec(at: AppTest) -> None:
    for name in ("keep", "seeds", "limit", "size", "epochs", "batch", "lr", "baseline", "target", "net", "sign", "test"):
        assert control(at, f"r_{name}") is not None, name
