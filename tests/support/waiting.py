"""Wait for a state, not for a time, with one limit for the whole suite."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

LIMIT = float(os.environ.get("ATTRLIB_TEST_LIMIT", 300))
"""Seconds after which a wait counts as hanging. No test result depends on speed."""
PAUSE = 0.02
"""Seconds between two checks."""


def until(condition: Callable[[], T], describe: Callable[[], object] = lambda: "it did not happen") -> T:
    """Wait until the condition holds and return its value.

    Args:
        condition: Function that returns a true value once the wait is over.
        describe: Function that describes the state, called if the wait fails.

    Raises:
        AssertionError: If the condition does not hold within `LIMIT` seconds, with the description.
    """
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < end, f"after {LIMIT:g} s: {describe()}"
        time.sleep(PAUSE)
    return value


@contextmanager
def ends() -> Iterator[None]:
    """Fail if the block has not ended within the limit, even inside a call that blocks `until`."""

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
    """Number of function calls."""

    count = 0


@contextmanager
def counted_calls(most: float = float("inf")) -> Iterator[Calls]:
    """Count the calls of Python and C functions by this thread in the block: a measure of work that does not depend on the machine.

    Fail as soon as there are more than `most` calls, even if the block would never end.
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
