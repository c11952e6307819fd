"""What a piece of work takes, by both clocks: where other programs use the machine, trust CPU seconds."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def now() -> np.ndarray:
    """Seconds, and CPU seconds of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(work: Callable[[], T]) -> tuple[T, np.ndarray]:
    """What the work gives, and its seconds and CPU seconds."""
    start = now()
    found = work()
    return found, now() - start
