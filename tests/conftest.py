"""Shared fixtures: the embedded model, loaded once, and separate caches; and the number of threads of torch."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import Checkpoints

import attrlib

os.environ.setdefault("ATTRLIB_DATA_ROOTS", os.sep)  # pages read what tests write, wherever temporary folders are
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores. Processes that they start use the same number of threads, so that results are equal bit for bit.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> attrlib.Classifier:
    """Return the embedded model. No call changes it, so all tests share it."""
    return attrlib.load_model()


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the user's cache folder, even a test that requests no folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache folder for this test alone."""
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    for name in ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """Return a function that makes pages load the given models for checkpoints of these names; all others load as usual."""

    def name_them(models: Mapping[str, attrlib.Classifier]) -> None:
        def load(name: str, *, checkpoint: str | None = None, **options: Any) -> attrlib.Classifier:
            found = models.get(checkpoint or "")
            return found or attrlib.load_model(name, checkpoint=checkpoint, **options)

        monkeypatch.setattr("pages.shared.jobs.load_model", load)

    return name_them
