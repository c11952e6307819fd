"""Fixtures for runs: a model, pictures, a store, and the maps that are computed."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import Calls, classifier, count_calls, pictures

from attrlib.store import Store


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return classifier()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty pictures, four of each class."""
    return pictures(tmp_path / "pictures")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return count_calls(monkeypatch)
