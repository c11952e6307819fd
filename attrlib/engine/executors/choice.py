"""Choose the executor of a run by the number of workers and the cluster that a user asks for."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from attrlib.engine.executors.dispatcher import Dispatcher
from attrlib.engine.executors.processes import ProcessCrew
from attrlib.engine.run import ExecutorFactory, local


@contextmanager
def executors(workers: int | None = None) -> Iterator[ExecutorFactory]:
    """Choose where units are executed, for the runs inside the context. Workers end with the context.

    Args:
        workers: Number of processes of this machine; None to compute in this process.

    Raises:
        SpecError: If the number is not valid.
    """
    if workers is None:
        yield local
        return
    with closing(ProcessCrew(workers)) as crew:
        yield lambda plan, heartbeat: Dispatcher(plan, heartbeat, crew)
