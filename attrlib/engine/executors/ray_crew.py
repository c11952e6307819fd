"""Workers as Ray actors: one for each GPU of a cluster, or for some CPU cores each."""

import itertools
import os
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrlib.engine.executors.messages import Died, Message
from attrlib.engine.executors.ray_cluster import connected, parse_cluster
from attrlib.errors import ClusterError, SpecError, shortened
from attrlib.models import Classifier

POLL = 2.0
"""Seconds that an actor waits for its next message before it answers that there is none."""
NODE_LOST = ("its node has died", "node was terminated", "preempted")
"""What Ray's errors say if not the actor but its whole machine is gone."""


class RayCrew:
    """Ray actors that exchange messages with this process.

    Args:
        cluster: `ray`, `ray://HOST:PORT` or `ray://auto`, see `parse_cluster`.
        workers: Number of actors; by default one for each GPU, or for each CPU core if there are no GPUs. With `OMP_NUM_THREADS`, an
            actor takes that number of cores.
        device: Device of the models: `auto`, `cpu` or `cuda`.
        data_roots: Folders in which workers look for the data, besides those of their environment.

    Raises:
        SpecError: If the cluster's name is not valid.
        ClusterError: If the cluster does not answer or has fewer resources.
    """

    def __init__(self, cluster: str, workers: int | None = None, device: str = "auto", data_roots: tuple[str, ...] = ()):
        if workers is not None and workers < 1:
            raise SpecError(f"workers={workers} is not valid: give a number of actors from 1")
        self.data_roots = data_roots
        self._resources = ExitStack()
        self._ray = self._resources.enter_context(connected(parse_cluster(cluster)))
        try:
            self._measure(workers, device)
        except BaseException:
            self._resources.close()
            raise
        self._numbers = itertools.count(1)
        self._actors: dict[int, Any] = {}
        self._machines: dict[int, str] = {}
        self._takes: dict[Any, int] = {}
        self._inbox: deque[tuple[int, Message]] = deque()
        self._files: dict[str, Any] = {}

    def _measure(self, workers: int | None, device: str) -> None:
        """Set the number of workers and what each of them takes. Raises `ClusterError` if the cluster has too little."""
        total = self._ray.cluster_resources()
        cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
        self._gpus = 0 if device == "cpu" else min(gpus, 1)
        if device.startswith("cuda") and not gpus:
            raise ClusterError("the cluster has no GPUs; use --device auto or cpu")
        asked = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
        self._threads = 1 if self._gpus else asked or max(1, cpus // workers if workers else 1)
        self._size = workers or (gpus if self._gpus else max(1, cpus // self._threads))
        most = min(cpus // self._threads, gpus if self._gpus else cpus)
        if self._size > most:
            raise ClusterError(
                f"the cluster has {cpus} CPUs and {gpus} GPUs, too few for {self._size} workers with {self._threads} CPUs"
                f"{' and a GPU' if self._gpus else ''} each; ask for at most {most}, or set OMP_NUM_THREADS to fewer threads"
            )
        nodes = sum(bool(node["Alive"]) for node in self._ray.nodes())
        self._sharing = 1 if self._gpus else -(-self._size // max(1, nodes))

    @property
    def size(self) -> int:
        """Return the number of workers wanted."""
        return self._size

    @property
    def sharing(self) -> int:
        """Return the number of workers that share the memory of a device."""
        return self._sharing

    @property
    def threads(self) -> int:
        """Return the number of threads of each worker."""
        return self._threads

    @property
    def members(self) -> tuple[int, ...]:
        """Return the numbers of the workers that were started and have not ended."""
        return tuple(self._actors)

    def start(self) -> int:
        """Start an actor as soon as the cluster has room, and return its number."""
        from attrlib.engine.executors.ray_actor import OPTIONS, Actor

        number = next(self._numbers)
        options = OPTIONS | {"num_cpus": self._threads, "num_gpus": self._gpus, "scheduling_strategy": "SPREAD"}
        self._actors[number] = self._ray.remote(**options)(Actor).remote()
        self._listen(number)
        return number

    def device(self, member: int, model: Classifier) -> str:
        """Return the device of a worker. Ray shows each actor its own GPU only."""
        return "cuda" if self._gpus else "cpu"

    def name(self, member: int) -> str:
        """Return how messages call a worker."""
        return f"worker {member} on {self._machines[member]}" if member in self._machines else f"worker {member}"

    def send(self, member: int, message: Message) -> None:
        """Send a message to a worker; it is lost if the worker has ended."""
        if member in self._actors:
            self._actors[member].give.remote(message)

    def receive(self, seconds: float) -> tuple[int, Message] | None:
        """Return the next message and its sender; None after so many seconds without one."""
        if not self._inbox:
            self._poll(seconds)
        return self._inbox.popleft() if self._inbox else None

    def file(self, path: str) -> Any:
        """Return a reference to the content of a file in the object store."""
        if path not in self._files:
            self._files[path] = self._ray.put(Path(path).read_bytes())
        return self._files[path]

    def stop(self, member: int) -> None:
        """End a worker at once."""
        actor = self._actors.pop(member, None)
        if actor is not None:
            self._takes = {take: number for take, number in self._takes.items() if number != member}
            self._ray.kill(actor)

    def close(self) -> None:
        """End all workers, and Ray if it was started for them."""
        for member in list(self._actors):
            self.stop(member)
        self._files.clear()
        self._resources.close()

    def _listen(self, member: int) -> None:
        self._takes[self._actors[member].take.remote(POLL)] = member

    def _poll(self, seconds: float) -> None:
        if not self._takes:
            time.sleep(seconds)
            return
        ready, _ = self._ray.wait(list(self._takes), num_returns=1, timeout=seconds)
        for take in ready:
            member = self._takes.pop(take)
            try:
                self._machines[member], messages = self._ray.get(take)
            except self._ray.exceptions.RayError as error:
                self._inbox.append((member, _death(error)))
            else:
                self._inbox.extend((member, message) for message in messages)
                self._listen(member)


def _death(error: Exception) -> Died:
    """Return why an actor has ended, from Ray's error."""
    text = str(error)
    if any(sign in text for sign in NODE_LOST):
        return Died("its node has left the cluster", blamed=False)
    if "ActorUnavailable" in type(error).__name__:
        # It may live, but a message was lost. Ray also says so at first when the process or its node has just died.
        return Died("it could not be reached any more")
    if "OutOfMemory" in type(error).__name__ or "running low on memory" in text:
        return Died("its node ran out of memory; give it more, use fewer workers, or set --max-memory")
    lines = [line.strip() for line in text.splitlines() if "The actor is dead because" in line or "Error:" in line]
    return Died(shortened((lines or [text])[-1].removeprefix("The actor is dead because ")))
