"""Define the interface of crews: workers of one kind, started and replaced one by one."""

from typing import Any
from typing import Protocol as Interface

from attrlib.engine.executors.messages import Message
from attrlib.models import Classifier


class Crew(Interface):
    """Workers that run `Member`, in processes or on other machines. A crew may serve several runs, one after the other."""

    @property
    def size(self) -> int:
        """Return the number of workers wanted."""

    @property
    def sharing(self) -> int:
        """Return the number of workers that share the memory of a device."""

    @property
    def threads(self) -> int:
        """Return the number of threads of each worker."""

    @property
    def data_roots(self) -> tuple[str, ...]:
        """Return the folders in which workers look for the data, besides those of their environment."""

    @property
    def members(self) -> tuple[int, ...]:
        """Return the numbers of the workers that were started and have not ended."""

    def start(self) -> int:
        """Start a worker, and return its number, which is never used again. It need not be ready yet.

        Raises:
            AttrlibError: If no worker can be started.
        """

    def device(self, member: int, model: Classifier) -> str:
        """Return the device of a worker.

        Args:
            member: Number of the worker.
            model: The run's model at the driver.
        """

    def name(self, member: int) -> str:
        """Return how messages call a worker: its number and its machine."""

    def send(self, member: int, message: Message) -> None:
        """Send a message to a worker; it is lost if the worker has ended."""

    def receive(self, seconds: float) -> tuple[int, Message] | None:
        """Return the next message and its sender; None after so many seconds without one."""

    def file(self, path: str) -> Any:
        """Return what a worker needs to read a file of the driver; see `Connection.content`."""

    def stop(self, member: int) -> None:
        """End a worker at once."""

    def close(self) -> None:
        """End all workers."""
