"""Define the interface of executors."""

from collections.abc import Generator, Sequence
from typing import Protocol as Interface

from attrlib.engine.work import UnitResult, WorkUnit


class Executor(Interface):
    """Execute units of work, anywhere and in any order."""

    @property
    def workers(self) -> int:
        """Return the number of workers that are at work."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes for the user on workers that were refused or lost."""

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of units of one kind, in any order.

        The records and maps of a result must be in the run's store before it is yielded. If the iterator is closed before its end,
        units that have not started are dropped.
        """

    def close(self) -> None:
        """Release what the executor holds. It is called once, after the last `map`."""
