"""What tests share: the embedded model, loaded once, and a small time budget for torch."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import attrlib

Checkpoints = Callable[[Mapping[str, attrlib.Classifier]], None]

os.environ.setdefault("ATTRLIB_DATA_ROOTS", os.sep)  # pages read what tests write, wherever temporary folders are
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; and the processes that they start compute with as many threads, so that bits are the same.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> attrlib.Classifier:
    """The embedded model. No call changes it, so all tests share it."""
    return attrlib.load_model()


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the folder of whoever runs them, also where it asks for none of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go into a folder of the test's own."""
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    for name in ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """Checkpoints of some names are these models on the pages; all else is what it is."""

    def name_them(models: Mapping[str, attrlib.Classifier]) -> None:
        def load(name: str, *, checkpoint: str | None = None, **options: Any) -> attrlib.Classifier:
            found = models.get(checkpoint or "")
            return found or attrlib.load_model(name, checkpoint=checkpoint, **options)

        monkeypatch.setattr("pages.shared.jobs.load_model", load)

    return name_them
