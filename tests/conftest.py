"""What tests share: the embedded model, loaded once, and a small time budget for torch."""

import os

import pytest
import torch

import attrlib

os.environ.setdefault("ATTRLIB_DATA_ROOTS", os.sep)  # pages read what tests write, wherever temporary folders are
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; and the processes that they start compute with as many threads, so that bits are the same.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> attrlib.Classifier:
    """The embedded model. No call changes it, so all tests share it."""
    return attrlib.load_model()
