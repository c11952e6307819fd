"""Choose the executor of a run by the number of workers and the cluster that a user asks for."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager

from attrlib.engine.executors.crew import Crew
from attrlib.engine.executors.dispatcher import Dispatcher
from attrlib.engine.executors.processes import ProcessCrew
from attrlib.engine.executors.ray_crew import RayCrew
from attrlib.engine.run import ExecutorFactory, local
from attrlib.specs import whole

WORKERS, CLUSTER = "ATTRLIB_WORKERS", "ATTRLIB_CLUSTER"
"""Environment variables of a server: the number of workers and the cluster of its runs."""


@contextmanager
def executors(
    workers: int | None = None, cluster: str | None = None, device: str = "auto", data_roots: Sequence[str] = ()
) -> Iterator[ExecutorFactory]:
    """Choose where units are executed, for the runs inside the context. Workers end with the context.

    Args:
        workers: Number of workers: processes of this machine, or actors of the cluster. None to compute in this process, or with as many
            actors as the cluster has room for.
        cluster: `ray` to start Ray on this machine, `ray://HOST:PORT` or `ray://auto` for a cluster that runs. None for no cluster.
        device: Device of the workers of a cluster: `auto`, `cpu` or `cuda`.
        data_roots: Folders in which the workers of a cluster look for the data, besides those of their environment.

    Raises:
        SpecError: If an argument is not valid.
        ClusterError: If the cluster does not answer or has fewer resources.
    """
    crew: Crew
    if cluster is not None:
        crew = RayCrew(cluster, workers, device, tuple(data_roots))
    elif workers is not None:
        crew = ProcessCrew(workers)
    else:
        yield local
        return
    with closing(crew):
        yield lambda plan, heartbeat: Dispatcher(plan, heartbeat, crew)


def configured() -> AbstractContextManager[ExecutorFactory]:
    """Return the executors that the environment asks for; by default this process.

    Raises:
        SpecError: If a variable is not valid, in the context or before.
        ClusterError: As `executors`.
    """
    workers = os.environ.get(WORKERS)
    return executors(whole(workers, WORKERS) if workers else None, os.environ.get(CLUSTER) or None)
