"""Train networks in this process or in others. A training is a function of plain data, so its result does not depend on where it runs."""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attrlib.engine.executors.choice import WORKERS
from attrlib.errors import AttrlibError, SpecError, TrainingError, shortened
from attrlib.specs import whole
from attrlib.training.fit import count_correct, fit, untrained
from attrlib.training.recipe import Recipe

MOST = 256
"""Largest number of worker processes."""
PAUSE = 0.2
"""Seconds between two calls of the heartbeat while workers train."""
T = TypeVar("T")
_CHILD = "from attrlib.retraining.pool import main; main()"


@dataclass(frozen=True, eq=False)
class Task:
    """A training as plain data.

    Attributes:
        net: Architecture of the network.
        classes: Number of classes.
        device: Name of a torch device.
        recipe: Settings of the training, with its seed.
        train: Normalised images to train on, (N,C,h,w).
        train_labels: Their classes, (N,).
        test: Normalised images to test on.
        test_labels: Their classes.
    """

    net: str
    classes: int
    device: str
    recipe: Recipe
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def execute(task: Task, check: Callable[[], None] = lambda: None) -> int:
    """Train a network, and return the number of test images whose class it predicts.

    Args:
        task: The training.
        check: Called before every step; raises `Cancelled` to stop.

    Raises:
        TrainingError: The training diverged.
    """
    train, test = torch.from_numpy(task.train), torch.from_numpy(task.test)
    size = (train.shape[2], train.shape[3])
    net = untrained(task.net, task.classes, size, train.shape[1], task.recipe.seed, task.device)
    fit(net, train, torch.from_numpy(task.train_labels), task.recipe, check)
    return count_correct(net, test, torch.from_numpy(task.test_labels))


def check_workers(workers: int | None) -> None:
    """Raise `SpecError` unless the number of worker processes is valid; None is."""
    if workers is not None and (not isinstance(workers, int) or not 1 <= workers <= MOST):
        raise SpecError(f"workers={workers!s:.40} is not valid: give a number of processes from 1 to {MOST}")


def workers_of_environment() -> int | None:
    """Return the number of worker processes that a server is started with, None for none.

    Raises:
        SpecError: If the variable `ATTRLIB_WORKERS` is not valid.
    """
    text = os.environ.get(WORKERS)
    workers = whole(text, WORKERS) if text else None
    check_workers(workers)
    return workers


def execute_all(
    tasks: Iterator[tuple[T, Task]], workers: int | None, heartbeat: Callable[[], None]
) -> Generator[tuple[T, int], None, None]:
    """Execute tasks, and yield the name of each with its result, in any order.

    Args:
        tasks: The tasks, each with a name; the next one is taken when a worker is free.
        workers: Number of processes; None for this one.
        heartbeat: Called before every step, or several times a second; raises `Cancelled` to stop. Workers are then ended.

    Raises:
        TrainingError: A training diverged, or a worker ended.
    """
    if workers is None:
        yield from ((name, execute(task, heartbeat)) for name, task in tasks)
        return
    with closing(_Pool(workers)) as pool:
        while True:
            while pool.has_room and (following := next(tasks, None)) is not None:
                pool.send(*following)
            if pool.is_idle:
                return
            yield pool.receive(heartbeat)


class _Pool:
    """Worker processes, started when they are needed, each with a thread that waits for its results."""

    def __init__(self, size: int):
        self._size = size
        self._results: queue.SimpleQueue[tuple[_Process, Any, Any]] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._free: list[_Process] = []

    @property
    def has_room(self) -> bool:
        """Return whether a worker is free, or can be started."""
        return bool(self._free) or len(self._processes) < self._size

    @property
    def is_idle(self) -> bool:
        """Return whether no worker has a task."""
        return len(self._free) == len(self._processes)

    def send(self, name: Any, task: Task) -> None:
        """Send a task to a worker."""
        if not self._free:
            self._processes.append(_Process(self._results))
            self._free.append(self._processes[-1])
        self._free.pop().start(name, task)

    def receive(self, heartbeat: Callable[[], None]) -> tuple[Any, int]:
        """Return the name of the next task that is done, and its result; its worker is free then."""
        while True:
            heartbeat()
            try:
                process, name, result = self._results.get(timeout=PAUSE)
            except queue.Empty:
                continue
            if isinstance(result, AttrlibError):
                raise result
            self._free.append(process)
            return name, result

    def close(self) -> None:
        """End all workers."""
        for process in self._processes:
            process.end()


class _Process:
    """A worker process: it reads tasks from its standard input, and writes results to its standard output."""

    def __init__(self, results: "queue.SimpleQueue[tuple[_Process, Any, Any]]"):
        self._results = results
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def start(self, name: Any, task: Task) -> None:
        """Send a task, and put its name and result into the queue when it is done."""
        threading.Thread(target=self._run, args=(name, task), name="attrlib-training", daemon=True).start()

    def _run(self, name: Any, task: Task) -> None:
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            pickle.dump(task, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            result = pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            code = self._process.wait()
            result = TrainingError(
                f"a worker ended with exit code {code}; what was trained is stored: run the same again, with fewer workers"
            )
        self._results.put((self, name, result))

    def end(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Execute the tasks that the driver sends, until it closes the pipe."""
    target = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a network prints must not come between the results.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, target)


def serve(source: IO[bytes], target: IO[bytes]) -> None:
    """Execute tasks from a stream, and write the result of each to another: a number, or an error."""
    while True:
        try:
            task = pickle.load(source)
        except EOFError:
            return
        result: int | AttrlibError
        try:
            result = execute(task)
        except AttrlibError as error:
            result = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001  whatever it is, the driver must see it rather than wait
            result = TrainingError(
                f"a training failed ({type(error).__name__}: {shortened(str(error))}); choose another net, size or batch"
            )
        pickle.dump(result, target)
        target.flush()


def task_of(net: str, classes: int, device: str, recipe: Recipe, seed: int, images: Tensor, labels: Tensor, tests: Tensor) -> Task:
    """Return the task of a training.

    Args:
        net: Architecture of the network.
        classes: Number of classes.
        device: Name of a torch device.
        recipe: Settings of the training.
        seed: Its seed.
        images: All images, (N,C,h,w).
        labels: Their classes, (N,).
        tests: Whether each is to test on, (N,).
    """
    parts: Sequence[np.ndarray] = [values[rows].numpy() for rows in (~tests, tests) for values in (images, labels)]
    return Task(net, classes, device, replace(recipe, seed=seed), *parts)
