"""Job queues with one worker thread each: a job outlives its caller, and equal jobs run once."""

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, IntEnum
from operator import attrgetter
from typing import Any

from attrlib.errors import AttrlibError, Cancelled, shortened
from attrlib.models.chunks import out_of_memory
from attrlib.progress import NewsProgress

Work = Callable[[NewsProgress], Any]
"""A function that computes the result of a job; the news that it reports is kept as `Job.news`."""


YIELD = 3.0
"""Seconds without a watcher after which a job with patience is dropped if a job of its priority or a higher one is waiting."""


class State(Enum):
    """The state of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Priority(IntEnum):
    """Priority of a job, QUICK first; jobs of equal priority run in the order of submission.

    A job may run between the chunks of a running job of lower priority, so that a short job does not wait for a long run.
    """

    QUICK = 0
    """For jobs that take seconds; they are never interrupted."""
    NORMAL = 1
    LONG = 2
    """For jobs that take minutes or hours."""


class Job:
    """A piece of work with its state and result. Any thread may read it; only the worker thread changes it.

    Attributes:
        key: Key under which the queue finds the job.
        priority: When the job runs; see `Priority`.
        state: The state.
        result: What the work returned, None unless the job is done.
        error: Why the job failed, None unless it did.
        done: Progress of the work so far.
        total: Progress at the end of the work.
        news: The latest news that the work reported, None if there is none; it is kept after the job has ended.
    """

    def __init__(self, key: str, work: Work, queue: "Queue", patience: float | None, priority: Priority):
        self.key = key
        self.priority = priority
        self.news: Any = None
        self._queue = queue
        self.state = State.WAITING
        self.result: Any = None
        self.error: AttrlibError | None = None
        self.done, self.total = 0, 0
        self._work = work
        self._patience = patience
        self._watched = time.monotonic()
        self._started = 0.0
        self._stop = threading.Event()
        self._ended = threading.Event()

    def watch(self) -> "Job":
        """Record that the result is still wanted, and return the job; see `Queue.submit`."""
        self._watched = time.monotonic()
        return self

    def cancel(self) -> None:
        """Stop the work at its next chunk."""
        self._stop.set()
        self._queue.unqueue(self)

    def forget(self) -> None:
        """Remove an ended job from its queue, so that the next `submit` runs the work again."""
        self._queue.drop(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the job has ended in any state; return False if `seconds` pass before."""
        return self._ended.wait(seconds)

    @property
    def ended(self) -> bool:
        """Return whether the job is done, failed or cancelled."""
        return self._ended.is_set()

    @property
    def seconds_left(self) -> float | None:
        """Return an estimate of the remaining seconds from the progress so far; None unless the job is running and has progressed."""
        done, total = self.done, self.total
        if self.state is not State.RUNNING or not done:
            return None
        return (time.monotonic() - self._started) * (total - done) / done

    @property
    def abandoned(self) -> bool:
        """Return whether the job has not been watched for longer than its patience.

        While a job of the same or a higher priority is waiting, `YIELD` seconds suffice.
        """
        if self._patience is None:
            return False
        unwatched = time.monotonic() - self._watched
        return unwatched > self._patience or (unwatched > YIELD and self._queue.is_wanted(self.priority))

    @property
    def dropped(self) -> bool:
        """Return whether the job was cancelled because it was abandoned, not by `cancel`."""
        return self.state is State.CANCELLED and not self._stop.is_set()

    def run(self) -> None:
        """Run the work in the worker's thread."""
        self._started = time.monotonic()
        self.state = State.RUNNING
        try:
            self._report(0, 0)
            self.result = self._work(self._report)
            self.state = State.DONE
        except Cancelled:
            self.state = State.CANCELLED
        except AttrlibError as error:
            # Without the traceback, whose frames would keep the work's objects alive.
            self.error, self.state = error.with_traceback(None), State.FAILED
        except BaseException as error:  # noqa: BLE001  the queue must continue, and callers must see the reason
            self.error, self.state = AttrlibError(_reason(error)), State.FAILED
        finally:
            self._work = _nothing
            self._ended.set()

    def _report(self, done: int, total: int, news: Any = None) -> None:
        self.done, self.total = done, total
        self.news = self.news if news is None else news
        if self._stop.is_set() or self.abandoned:
            raise Cancelled("cancelled")
        if self.priority > Priority.QUICK:
            self._queue.give_way(self)


def _nothing(_progress: NewsProgress) -> None:
    return None


def _reason(error: BaseException) -> str:
    if out_of_memory(error):
        return "not enough memory; choose fewer steps or a smaller model, or close other programs"
    return f"unexpected error ({type(error).__name__}: {shortened(str(error), 200)}); try other settings, and report it if it persists"


class Queue:
    """A queue that runs one job at a time and keeps results.

    Jobs run by priority, then in order of submission; see `Priority`. Results are kept up to `max_bytes`; the least recently used
    are removed first.

    Args:
        name: Name of the queue, used for its thread.
        max_bytes: Maximum bytes of kept results.
    """

    def __init__(self, name: str, max_bytes: int = 256 << 20):
        self.max_bytes = max_bytes
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"attrlib-{name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, key: str, work: Work, patience: float | None = None, priority: Priority = Priority.NORMAL) -> Job:
        """Return the job of a key: the existing job in any state, or a new one.

        Args:
            key: Key of the job; equal work must have equal keys.
            work: Computes the result.
            patience: Seconds without a call of `submit` or `Job.watch` after which the job is dropped; None to never drop it.
            priority: When the job runs.
        """
        with self._changed:
            job = self._jobs.get(key)
            if job is None or job.dropped:
                job = self._jobs[key] = Job(key, work, self, patience, priority)
                if self._closed:
                    job.cancel()
                    job.run()
                self._waiting += [] if job.ended else [job]
                self._changed.notify()
            self._jobs.move_to_end(key)
            return job.watch()

    def find(self, key: str) -> Job | None:
        """Return the job of a key, None if there is none or it was dropped; no job is started."""
        with self._changed:
            job = self._jobs.get(key)
            return None if job is None or job.dropped else job

    def close(self) -> None:
        """Cancel all jobs and stop the thread.

        A thread that is still inside torch when Python exits would abort the process.
        """
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                job.cancel()
            self._changed.notify()
        self._thread.join(timeout=10)

    def unqueue(self, job: Job) -> None:
        """End a cancelled job that has not started."""
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.run()

    def drop(self, job: Job) -> None:
        """Remove an ended job; see `Job.forget`."""
        with self._changed:
            if self._jobs.get(job.key) is job and job.ended:
                del self._jobs[job.key]

    def give_way(self, running: Job) -> None:
        """Run waiting jobs of higher priority, in the thread of the running job, which calls this between its chunks."""
        while (job := self._next_before(running)) is not None:
            job.run()
            self._shrink()

    def is_wanted(self, priority: Priority) -> bool:
        """Return whether a job of this priority or a higher one is waiting."""
        return any(job.priority <= priority for job in self._waiting)

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of all kept results."""
        with self._changed:
            return sum(_size(j) for j in self._jobs.values())

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                job = self._waiting.pop(self._waiting.index(min(self._waiting, key=attrgetter("priority"))))
            job.run()
            self._shrink()

    def _next_before(self, running: Job) -> Job | None:
        with self._changed:
            job = min(self._waiting, key=attrgetter("priority"), default=None)
            if job is None or job.priority >= running.priority:
                return None
            self._waiting.remove(job)
            return job

    def _shrink(self) -> None:
        with self._changed:
            total = sum(_size(j) for j in self._jobs.values())
            for key, job in list(self._jobs.items())[:-1]:
                if total <= self.max_bytes and len(self._jobs) <= 4096:
                    break
                if job.ended:
                    total -= _size(job)
                    del self._jobs[key]


def _size(job: Job) -> int:
    return _bytes(job.result)


def _bytes(result: object) -> int:
    """Return the bytes of a result: its length or `nbytes`, or a guess if it has neither."""
    if isinstance(result, bytes):
        return len(result)
    if isinstance(result, list | tuple):
        return sum(map(_bytes, result))
    return int(getattr(result, "nbytes", 1024))


_queues: dict[str, Queue] = {}
_lock = threading.Lock()


def queue(name: str) -> Queue:
    """Return the process-wide queue of a name: one for each device, and `models` for loading models."""
    with _lock:
        if name not in _queues:
            _queues[name] = Queue(name, max_bytes=(4 << 30) if name == "models" else (256 << 20))
        return _queues[name]
