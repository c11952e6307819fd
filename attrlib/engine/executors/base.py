"""Define the interface of executors."""

from collections.abc import Generator, Sequence
from typing import Protocol as Interface

from attrlib.engine.work import UnitResult, WorkUnit


class Executor(Interface):
    """Execute units of work, anywhere and in any order."""

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of units of one kind, in any order.

        The records and maps of a result must be in the run's store before it is yielded. If the iterator is closed before its end,
        units that have not started are dropped.
        """
