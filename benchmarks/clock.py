"""Time a function by wall clock and CPU clock. On a machine that other programs use, trust CPU seconds."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def now() -> np.ndarray:
    """Return wall-clock seconds, and CPU seconds of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(work: Callable[[], T]) -> tuple[T, np.ndarray]:
    """Return the result of `work`, and its wall-clock and CPU seconds."""
    start = now()
    result = work()
    return result, now() - start
