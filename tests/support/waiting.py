"""How tests wait: for the state that is meant, with one limit for the whole suite."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

LIMIT = float(os.environ.get("ATTRLIB_TEST_LIMIT", 300))
"""Seconds after which whatever is waited for is taken to hang. No test is right or wrong by how fast it is."""
PAUSE = 0.02
"""Seconds between two looks."""


def until(condition: Callable[[], T], describe: Callable[[], object] = lambda: "it did not happen") -> T:
    """Wait until the condition holds, and return what it gave. Fail at the limit with a description of the state then."""
    end = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < end, f"after {LIMIT:g} s: {describe()}"
        time.sleep(PAUSE)
    return found


@contextmanager
def ends() -> Iterator[None]:
    """Fail where the block has not ended by the limit, also inside a call that never returns to Python's `until`."""

    def give_up(*_args: object) -> None:
        raise TimeoutError(f"after {LIMIT:g} s: it did not end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Calls:
    """How many functions were called."""

    count = 0


@contextmanager
def counted_calls(most: float = float("inf")) -> Iterator[Calls]:
    """Count the functions that this thread calls in the block, of Python and of C: work that does not depend on the machine.

    Fail as soon as they are more than `most`, also where the block would never end.
    """
    calls = Calls()

    def note(_frame: object, event: str, _arg: object) -> None:
        calls.count += event in ("call", "c_call")
        assert calls.count <= most, f"more than {most:g} calls"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
