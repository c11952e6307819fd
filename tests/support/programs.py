"""Programs that tests need and pip does not install."""

import os
from typing import NoReturn

import pytest


def unavailable(message: str) -> NoReturn:
    """Skip the test, as a program is not installed; in CI, where .ci/run installs it, fail."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
