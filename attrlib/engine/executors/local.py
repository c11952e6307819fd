"""Execute units in this thread, one after the other."""

from collections.abc import Generator, Sequence

from attrlib.engine.work import UnitResult, Worker, WorkUnit


class LocalExecutor:
    """Execute units in this thread, in order, while the images of the next two are loaded.

    Args:
        worker: Executes the units; its cache is the run's store.
    """

    workers = 1
    notes: tuple[str, ...] = ()

    def __init__(self, worker: Worker):
        self._worker = worker

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of units of one kind, in order."""
        if not units:
            return
        loader = self._worker.loader(units)
        with loader.prefetch([unit.items for unit in units]):
            for number, unit in enumerate(units):
                yield from self._worker.execute(number, unit, loader)

    def close(self) -> None:
        """Do nothing: models and data belong to the caller."""
