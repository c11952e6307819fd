"""Progress callbacks, which long computations call between chunks of work.

A callback raises `Cancelled` to stop the computation, which keeps what it has computed so far. There are three types, each reporting
more than the one before:

- `Progress`: a count, for maps, measurements and downloads.
- `NewsProgress`: a count and optional news, such as the current step or a first result, for jobs.
- `Listener`: an event, for runs, studies and training, which report a rate, intermediate scores or losses.

A `NewsProgress` can be passed wherever a `Progress` is expected.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Event = TypeVar("Event")

Progress = Callable[[int, int], None]
"""Called with the amount done and the total, in passes, items or bytes."""

Listener = Callable[[Event], None]
"""Called with an event."""


class NewsProgress(Protocol):
    """Called with the amount done, the total, and news if there are any."""

    def __call__(self, done: int, total: int, news: Any = None, /) -> None:
        """Receive progress; raise `Cancelled` to stop the computation."""


def no_progress(_done: int, _total: int, _news: Any = None) -> None:
    """Ignore progress."""


def no_listener(_event: object) -> None:
    """Ignore events."""
