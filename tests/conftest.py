"""Shared fixtures: the embedded model, loaded once, and separate cache folders. Also sets the number of threads of PyTorch."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import Checkpoints
from support.postgres import postgres, server  # noqa: F401

import attrlib

os.environ.setdefault("ATTRLIB_DATA_ROOTS", os.sep)  # pages may read what tests write, wherever temporary folders are
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores. Processes started by them use the same number of threads, so that results are equal bit for bit.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> attrlib.Classifier:
    """Return the embedded model, shared by all tests, as no call changes it."""
    return attrlib.load_model()


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep all tests away from the user's cache folder, including tests that do not request `own_cache`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate cache folder for this test."""
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    for name in ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS", "ATTRLIB_MAPS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """Return a function that makes pages load the given models for checkpoints of these names; all others load as usual."""

    def register(models: Mapping[str, attrlib.Classifier]) -> None:
        def load(name: str, *, checkpoint: str | None = None, **options: Any) -> attrlib.Classifier:
            model = models.get(checkpoint or "")
            return model or attrlib.load_model(name, checkpoint=checkpoint, **options)

        monkeypatch.setattr("pages.shared.jobs.load_model", load)

    return register
