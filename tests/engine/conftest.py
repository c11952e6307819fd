"""Fixtures for runs: a model, pictures, a store, and the maps that are computed."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import Calls, classifier, pictures
from torch import Tensor

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.methods import resolve
from attrlib.specs import MethodSpec, digest
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
    found, original = Calls(), attrlib.engine.evaluator.attribute_each

    def counted(view: Any, specs: Sequence[MethodSpec], images: Tensor, targets: Sequence[int], options: Any, owners: Any) -> list[Any]:
        owned = range(len(images)) if owners is None else owners
        result = original(view, specs, images, targets, options, owners)
        contents = [digest(images[k].contiguous().numpy().tobytes()) for k in owned]
        found.extend((str(resolve(spec)), content, target) for spec in specs for content, target in zip(contents, targets, strict=True))
        return result

    monkeypatch.setattr(attrlib.engine.evaluator, "attribute_each", counted)
    return found
