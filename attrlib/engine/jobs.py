"""One queue with one worker thread for each device: work outlives whoever asked for it, and equal work is done once."""

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, IntEnum
from operator import attrgetter
from typing import Any

from attrlib.errors import AttrlibError, Cancelled
from attrlib.models.chunks import out_of_memory
from attrlib.progress import NewsProgress

Work = Callable[[NewsProgress], Any]
"""What a job computes; the news that it reports are shown as `Job.news`."""


YIELD = 3.0
"""Seconds without anybody asking after which a job with patience makes room for one that waits."""


class State(Enum):
    """Where a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Priority(IntEnum):
    """Order in which jobs run; among equals the first submitted comes first.

    A job runs between the chunks of any job of a lower priority, so that nobody waits for somebody else's run.
    """

    QUICK = 0
    """Takes seconds; is never interrupted."""
    NORMAL = 1
    LONG = 2
    """Takes minutes or hours."""


class Job:
    """One piece of work and what has become of it. Read by any thread, written by the worker.

    `news` is what the work has last said of itself, None before; it stays when the job has ended.
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
        """Says that somebody still wants it; see `Queue.submit`."""
        self._watched = time.monotonic()
        return self

    def cancel(self) -> None:
        """Asks the work to stop at its next chunk."""
        self._stop.set()
        self._queue.unqueue(self)

    def forget(self) -> None:
        """Drops an ended job from its queue, so that the next `submit` does the work anew."""
        self._queue.drop(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until it has ended, one way or another; False where the time was too short."""
        return self._ended.wait(seconds)

    @property
    def ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._ended.is_set()

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the progress so far; None before there is any."""
        done, total = self.done, self.total
        if self.state is not State.RUNNING or not done:
            return None
        return (time.monotonic() - self._started) * (total - done) / done

    @property
    def abandoned(self) -> bool:
        """Whether nobody has asked for it for longer than its patience, or for a while and somebody else waits."""
        if self._patience is None:
            return False
        unwatched = time.monotonic() - self._watched
        return unwatched > self._patience or (unwatched > YIELD and self._queue.crowded)

    @property
    def dropped(self) -> bool:
        """Cancelled because nobody wanted it any more, not because somebody said so."""
        return self.state is State.CANCELLED and not self._stop.is_set()

    def run(self) -> None:
        """Does the work, in the worker's thread."""
        self._started = time.monotonic()
        self.state = State.RUNNING
        try:
            self._report(0, 0)
            self.result = self._work(self._report)
            self.state = State.DONE
        except Cancelled:
            self.state = State.CANCELLED
        except AttrlibError as error:
            # Without the traceback, whose frames would keep alive all that the work held.
            self.error, self.state = error.with_traceback(None), State.FAILED
        except BaseException as error:  # noqa: BLE001  the queue must go on, and whoever waits must learn why
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
    text = str(error).splitlines()[0][:200] if str(error) else ""
    if out_of_memory(error):
        return "there was not enough memory; choose fewer steps or a smaller model, or close other programs"
    return f"unexpected error ({type(error).__name__}: {text}); try other settings, and report it if it stays"


class Queue:
    """Jobs one at a time, in order of submission, their results kept up to `max_bytes` (least recently used out first).

    See `Priority` for the order where jobs differ in priority.
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
        """The job of that key: the one there is (waiting, running, done, failed or cancelled), or a new one.

        With `patience` (seconds) it is dropped when nobody has asked for it, by `submit` or `Job.watch`, for so long.
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
        """The job of that key, if there is one and it was not dropped for want of interest; nothing is begun."""
        with self._changed:
            job = self._jobs.get(key)
            return None if job is None or job.dropped else job

    def close(self) -> None:
        """Stops at the next chunk and for good: a thread that is still inside torch when Python ends aborts the process."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                job.cancel()
            self._changed.notify()
        self._thread.join(timeout=10)

    def unqueue(self, job: Job) -> None:
        """Ends a cancelled job that has not begun."""
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.run()

    def drop(self, job: Job) -> None:
        """See `Job.forget`."""
        with self._changed:
            if self._jobs.get(job.key) is job and job.ended:
                del self._jobs[job.key]

    def give_way(self, running: Job) -> None:
        """Runs the jobs that may slip in, in the thread of the job that calls this between its chunks."""
        while (job := self._next_before(running)) is not None:
            job.run()
            self._shrink()

    @property
    def crowded(self) -> bool:
        """Whether work waits."""
        return bool(self._waiting)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all kept results."""
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
    """What a result takes, as it says itself; of what does not, a guess."""
    if isinstance(result, bytes):
        return len(result)
    if isinstance(result, list | tuple):
        return sum(map(_bytes, result))
    return int(getattr(result, "nbytes", 1024))


_queues: dict[str, Queue] = {}
_making = threading.Lock()


def queue(name: str) -> Queue:
    """The process-wide queue of that name: one for each device, and `models` for loading."""
    with _making:
        if name not in _queues:
            _queues[name] = Queue(name, max_bytes=(4 << 30) if name == "models" else (256 << 20))
        return _queues[name]
