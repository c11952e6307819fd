"""Workers in processes of this machine: one for each GPU, or several on the CPU that share its cores."""

import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from attrlib.engine.executors.messages import Died, Message
from attrlib.errors import SpecError, shortened
from attrlib.models import Classifier
from attrlib.places import import_folder

MOST = 256
"""Maximum number of workers of one machine."""
# Not multiprocessing: its children import the caller's main module, which may be a script without a guard, or a page of the app.
_CHILD = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from attrlib.engine.executors.child import main; main()"


class ProcessCrew:
    """Processes that exchange messages with this one over their standard input and output.

    Args:
        size: Number of processes.

    Raises:
        SpecError: If the number is not valid.
    """

    data_roots: tuple[str, ...] = ()

    def __init__(self, size: int):
        self._size = check_size(size)
        self._numbers = itertools.count(1)
        self._processes: dict[int, _Process] = {}
        self._inbox: queue.SimpleQueue[tuple[int, Message]] = queue.SimpleQueue()

    @property
    def size(self) -> int:
        """Return the number of workers wanted."""
        return self._size

    @property
    def sharing(self) -> int:
        """Return the number of workers that share the memory of a device."""
        return -(-self._size // max(1, torch.cuda.device_count()))

    @property
    def threads(self) -> int:
        """Return the number of threads of each worker."""
        return max(1, torch.get_num_threads() // self._size)

    @property
    def members(self) -> tuple[int, ...]:
        """Return the numbers of the workers that were started and have not ended."""
        return tuple(self._processes)

    @property
    def pids(self) -> dict[int, int]:
        """Return the process of each worker."""
        return {number: process.pid for number, process in self._processes.items()}

    def start(self) -> int:
        """Start a process, and return its number."""
        number = next(self._numbers)
        place = next(place for place in itertools.count() if place not in {each.place for each in self._processes.values()})
        self._processes[number] = _Process(number, place, self.threads, self._inbox)
        return number

    def device(self, member: int, model: Classifier) -> str:
        """Return the device of a worker: GPUs in turn, else the device of the model."""
        if model.device.type != "cuda":
            return model.device.type
        return f"cuda:{self._processes[member].place % torch.cuda.device_count()}"

    def name(self, member: int) -> str:
        """Return how messages call a worker."""
        return f"worker {member}"

    def send(self, member: int, message: Message) -> None:
        """Send a message to a worker; it is lost if the worker has ended."""
        if member in self._processes:
            self._processes[member].send(message)

    def receive(self, seconds: float) -> tuple[int, Message] | None:
        """Return the next message and its sender; None after so many seconds without one."""
        try:
            return self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None

    def file(self, path: str) -> Any:
        """Return the content of a file."""
        return Path(path).read_bytes()

    def stop(self, member: int) -> None:
        """End a worker at once."""
        process = self._processes.pop(member, None)
        if process is not None:
            process.end()

    def close(self) -> None:
        """End all workers."""
        for member in list(self._processes):
            self.stop(member)


def check_size(size: int) -> int:
    """Return a number of workers of one machine if it is valid, else raise `SpecError`."""
    if not 1 <= size <= MOST:
        raise SpecError(f"workers={size} is not valid: give a number of processes from 1 to {MOST}")
    return size


class _Process:
    """A process, and a thread that reads its messages."""

    def __init__(self, number: int, place: int, threads: int, inbox: "queue.SimpleQueue[tuple[int, Message]]"):
        self.number, self.place = number, place
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=_environment(threads)
        )
        self.pid = self._process.pid
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process.stdout, inbox), name=f"attrlib-worker-{number}", daemon=True).start()
        # A thread of its own, so that the driver never waits for a worker that waits for the driver.
        threading.Thread(target=self._write, args=(self._process.stdin,), name=f"attrlib-worker-{number}-out", daemon=True).start()

    def send(self, message: Message) -> None:
        self._outbox.put(pickle.dumps(message))

    def end(self) -> None:
        self._outbox.put(None)
        self._process.kill()
        self._process.wait()

    def _write(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError), pipe:
            while (message := self._outbox.get()) is not None:
                pipe.write(message)
                pipe.flush()

    def _read(self, pipe: IO[bytes], inbox: "queue.SimpleQueue[tuple[int, Message]]") -> None:
        # The end of the pipe, or a message that was cut when the process was killed.
        with pipe, contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):
            while True:
                inbox.put((self.number, pickle.load(pipe)))
        inbox.put((self.number, Died(self._reason())))

    def _reason(self) -> str:
        """Return why the process has ended."""
        code = self._process.wait()
        with self._errors:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            name = signal.Signals(-code).name
            return f"signal {name}" + (", as the system sends it when memory runs out" if name == "SIGKILL" else "")
        return f"exit code {code}" + (f", {shortened(lines[-1])}" if lines else "")


def _environment(threads: int) -> Mapping[str, str]:
    """Return the environment of a process: it finds this package, and uses its share of the cores from the start."""
    paths = [str(import_folder()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
