"""What an executor is."""

from collections.abc import Generator, Sequence
from typing import Protocol as Interface

from attrlib.engine.work import UnitResult, WorkUnit


class Executor(Interface):
    """Execute units of work, anywhere and in any order."""

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of units of one kind, in any order.

        By the time a result is yielded, its records and maps are in the run's store. The iterator may be closed before its end:
        units that have not begun are then dropped.
        """
