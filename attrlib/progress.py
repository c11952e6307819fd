"""How long computations report their progress, and how they are stopped: one callback, called between chunks of work.

A callback raises `Cancelled` to stop the computation, which keeps what it has computed so far. There are three types because there are
three things to say, each a refinement of the one before:

- `Progress`: a count. What maps, measurements and downloads report.
- `NewsProgress`: a count and, where there is any, news of the work, such as what is being done or a first result. What a job reports.
- `Listener`: an event, where a count says too little: runs, studies and training report a rate, intermediate scores or losses.

A `NewsProgress` can be passed wherever a `Progress` is expected.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Event = TypeVar("Event")

Progress = Callable[[int, int], None]
"""Called with how much is done, of how much: passes, items or bytes."""

Listener = Callable[[Event], None]
"""Called with an event."""


class NewsProgress(Protocol):
    """Called with how much is done, of how much, and news if there are any."""

    def __call__(self, done: int, total: int, news: Any = None, /) -> None:
        """Report progress; raise `Cancelled` to stop the work."""


def no_progress(_done: int, _total: int, _news: Any = None) -> None:
    """Ignore progress: neither show nor stop anything."""


def no_listener(_event: object) -> None:
    """Ignore events: neither show nor stop anything."""
