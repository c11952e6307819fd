"""Time a piece of work by wall clock and CPU clock: where other programs use the machine, trust CPU seconds."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def now() -> np.ndarray:
    """Return wall-clock seconds, and CPU seconds of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(work: Callable[[], T]) -> tuple[T, np.ndarray]:
    """Return the result of the work, and its wall-clock and CPU seconds."""
    start = now()
    found = work()
    return found, now() - start
