"""The page Scores of a server that was started with workers: progress, number of workers, cancel and resume."""

from collections.abc import Iterator
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from streamlit.testing.v1 import AppTest
from support.executors import copied_birds
from support.gate import Gate, methods_of_tests
from support.pages import buttons, nodes, open_page, press, until, words

from attrlib.engine.executors.choice import CLUSTER, WORKERS
from attrlib.specs import parse_methods, parse_protocols
from attrlib.store import open_store

pytestmark = pytest.mark.usefixtures("own_cache")
MODEL = "birds_resnet10"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty pictures: two units."""
    return copied_birds(tmp_path / "birds", range(20))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate at which the method `Held` waits, here and in the workers."""
    with methods_of_tests(tmp_path / "gate") as gate:
        yield gate


def start(data: Path) -> AppTest:
    at = open_page("scores", model=MODEL, data=data, protocols="sds", methods="IxG,Held", limit=20)
    return press(until(at, lambda at: "of memory" in words(at)), "Start")


def progress(at: AppTest) -> str:
    return "".join(node.proto.text for node in nodes(at, "progress"))


def test_a_run_shows_its_workers_and_can_be_cancelled_and_resumed(data: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS, "2")
    at = until(start(data), lambda at: "2 workers" in progress(at))
    gate.let(2)
    at = until(at, lambda at: "22 of 40 results" in progress(at))
    at = until(press(at, "Cancel"), lambda at: "Resume" in buttons(at))
    gate.open()
    # Without workers, whose start takes seconds: results do not depend on them.
    monkeypatch.delenv(WORKERS)
    until(press(at, "Resume"), lambda at: "Run again" in buttons(at))
    model = attrlib.load_model(MODEL, "cpu")
    result = attrlib.compare(parse_protocols("sds"), model, parse_methods("IxG,Held"), data)
    assert (result.computed, result.cached) == (0, 40)
    assert {run.state for run in open_store().runs()} == {"done"}


def test_a_cluster_that_cannot_be_used_is_one_sentence(data: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLUSTER, "ray://127.0.0.1:9")
    at = until(start(data), lambda at: "No cluster answers at 127.0.0.1:9" in words(at))
    assert "Start" in buttons(at) or "Run again" in buttons(at)
