"""What tests share: the embedded model, loaded once, and a small time budget for torch."""

import attrlib  # noqa: I001  before torchvision and timm
import pytest


@pytest.fixture(scope="session")
def embedded() -> attrlib.Classifier:
    """The embedded model. No call changes it, so all tests share it."""
    return attrlib.load_model()
