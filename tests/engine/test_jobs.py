import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.waiting import LIMIT, until

from attrlib.engine import jobs
from attrlib.engine.jobs import Job, Priority, Queue, State
from attrlib.errors import Cancelled, MethodError
from attrlib.progress import NewsProgress

MB = 1_000_000


class Result:
    """A result of that many bytes."""

    def __init__(self, nbytes: int = 0) -> None:
        self.nbytes = nbytes


@pytest.fixture
def queue() -> Iterator[Queue]:
    queue = Queue("test")
    yield queue
    queue.close()


@pytest.fixture
def small() -> Iterator[Queue]:
    """A queue that keeps a megabyte. Jobs without a sized result count for a kilobyte."""
    queue = Queue("test", max_bytes=MB)
    yield queue
    queue.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that jobs see; it stands still unless `now` is set."""
    state = SimpleNamespace(now=100.0)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: state.now))
    return state


@contextmanager
def busy(queue: Queue) -> Iterator[Job]:
    """The worker is inside a long job that reports nothing until the context ends."""
    inside, leave = threading.Event(), threading.Event()

    def work(_progress: NewsProgress) -> None:
        inside.set()
        leave.wait(LIMIT)

    job = queue.submit("busy", work)
    assert inside.wait(LIMIT)
    try:
        yield job
    finally:
        leave.set()


def ended(job: Job) -> Job:
    assert job.wait(LIMIT)
    return job


def returns(value: Any = None) -> Callable[[NewsProgress], Any]:
    return lambda _progress: value


def raises(error: BaseException) -> Callable[[NewsProgress], Any]:
    def work(_progress: NewsProgress) -> None:
        raise error

    return work


# Results and errors


def test_a_job_ends_with_the_result_of_its_work(queue: Queue) -> None:
    job = ended(queue.submit("a", returns(42)))
    assert (job.result, job.state, job.error, job.ended) == (42, State.DONE, None, True)


def test_jobs_run_one_at_a_time_in_order_of_submission(queue: Queue) -> None:
    order: list[tuple[int, str]] = []

    def work(i: int) -> Callable[[NewsProgress], None]:
        return lambda _progress: order.extend([(i, "starts"), (i, "ends")])

    for job in [queue.submit(str(i), work(i)) for i in range(20)]:
        ended(job)
    assert order == [(i, what) for i in range(20) for what in ("starts", "ends")]


def test_equal_keys_share_one_job_and_its_result(queue: Queue) -> None:
    with busy(queue):
        first = queue.submit("a", returns("first"))
        assert queue.submit("a", returns("second")) is first
        assert first.state is State.WAITING
        assert not first.ended
    assert ended(first).result == "first"
    assert queue.submit("a", returns("third")) is first


def test_many_threads_that_submit_the_same_key_at_once_run_it_once(queue: Queue) -> None:
    count = 32
    start, runs = threading.Barrier(count), []

    def work(_progress: NewsProgress) -> int:
        runs.append(1)
        return len(runs)

    def ask(_i: int) -> Job:
        start.wait(LIMIT)
        return ended(queue.submit("a", work))

    with ThreadPoolExecutor(count) as threads:
        found = list(threads.map(ask, range(count)))
    assert len(set(map(id, found))) == 1
    assert (len(runs), found[0].result) == (1, 1)


def test_an_error_of_the_library_is_kept_as_it_is(queue: Queue) -> None:
    error = MethodError("not defined here; choose another layer")
    job = ended(queue.submit("a", raises(error)))
    assert (job.state, job.result) == (State.FAILED, None)
    assert job.error is error
    assert queue.submit("a", returns()) is job


def test_any_other_error_is_kept_with_a_readable_reason(queue: Queue) -> None:
    job = ended(queue.submit("a", raises(ZeroDivisionError("division by zero\nand a second line"))))
    assert job.state is State.FAILED
    assert "ZeroDivisionError: division by zero)" in str(job.error)
    assert "second line" not in str(job.error)
    assert "unexpected" in str(ended(queue.submit("b", raises(ValueError()))).error)


@pytest.mark.parametrize(
    "work",
    [
        raises(MemoryError()),
        raises(RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")),
        raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")),
        lambda _progress: torch.empty(2**58),
    ],
    ids=["Python", "CUDA", "CUDA's own type", "torch on the CPU"],
)
def test_too_little_memory_is_said_to_be_that(work: Callable, queue: Queue) -> None:
    assert "not enough memory" in str(ended(queue.submit("a", work)).error)
    assert "fewer steps" in str(queue.submit("a", work).error)
    assert ended(queue.submit("next", returns("fine"))).result == "fine"


@pytest.mark.parametrize("error", [ValueError("x"), MethodError("x"), Cancelled("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_the_queue_goes_on_after_a_failure(error: BaseException, queue: Queue) -> None:
    failed = queue.submit("a", raises(error))
    after = queue.submit("b", returns(1))
    assert ended(failed).state in (State.FAILED, State.CANCELLED)
    assert after.wait(LIMIT)
    assert after.result == 1


@pytest.mark.parametrize("error", [None, ValueError("x"), MethodError("x"), Cancelled("x")], ids=lambda e: type(e).__name__)
def test_an_ended_job_keeps_nothing_of_what_its_work_held(error: Exception | None, queue: Queue) -> None:
    kept = []

    def submit() -> None:
        outer = Result()

        def work(_progress: NewsProgress) -> None:
            inner = Result()
            kept.extend([weakref.ref(outer), weakref.ref(inner)])
            if error is not None:
                raise type(error)(*error.args)

        ended(queue.submit("a", work))

    submit()
    ended(queue.submit("b", returns()))
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


def test_work_that_stops_of_its_own_accord_is_done_anew_by_the_next_submit(queue: Queue) -> None:
    assert ended(queue.submit("a", raises(Cancelled("enough")))).state is State.CANCELLED
    assert ended(queue.submit("a", returns(1))).result == 1


# Cancelling and forgetting


def test_a_job_cancelled_before_its_start_does_no_work(queue: Queue) -> None:
    ran: list[int] = []
    with busy(queue):
        job = queue.submit("a", lambda _progress: ran.append(1))
        job.cancel()
    assert ended(job).state is State.CANCELLED
    assert (ran, job.result, job.error) == ([], None, None)


def test_a_job_is_cancelled_between_chunks(queue: Queue) -> None:
    chunks, reached, go_on = [], threading.Event(), threading.Event()

    def work(progress: NewsProgress) -> None:
        for i in range(10):
            progress(i, 10)
            chunks.append(i)
            if i == 3:
                reached.set()
                assert go_on.wait(LIMIT)

    job = queue.submit("a", work)
    assert reached.wait(LIMIT)
    assert not job.wait(0)
    job.cancel()
    go_on.set()
    assert ended(job).state is State.CANCELLED
    assert chunks == [0, 1, 2, 3]
    assert (job.done, job.total) == (4, 10)


def test_a_cancelled_job_stays_cancelled_until_it_is_forgotten(queue: Queue) -> None:
    with busy(queue):
        job = queue.submit("a", returns(1))
        job.cancel()
    ended(job)
    assert queue.submit("a", returns(2)) is job
    job.forget()
    assert ended(queue.submit("a", returns(3))).result == 3


@pytest.mark.parametrize("work", [returns(1), raises(ValueError("x"))])
def test_a_forgotten_job_is_done_anew(work: Callable, queue: Queue) -> None:
    job = ended(queue.submit("a", work))
    job.forget()
    again = ended(queue.submit("a", returns(2)))
    assert again is not job
    assert again.result == 2
    job.forget()
    assert queue.submit("a", returns(3)) is again


def test_work_that_has_not_ended_cannot_be_forgotten(queue: Queue) -> None:
    with busy(queue) as running:
        waiting = queue.submit("a", returns(1))
        running.forget()
        waiting.forget()
        assert queue.submit("busy", returns()) is running
        assert queue.submit("a", returns(2)) is waiting
    assert ended(waiting).result == 1


# Patience


def test_abandoned_waiting_work_is_dropped_and_done_anew_when_asked_again(queue: Queue, clock: SimpleNamespace) -> None:
    ran: list[int] = []
    with busy(queue):
        job = queue.submit("a", lambda _progress: ran.append(1), patience=15.0)
        clock.now += 15.1
        assert job.abandoned
    assert ended(job).state is State.CANCELLED
    assert job.dropped
    assert not ran
    assert ended(queue.submit("a", returns(2), patience=15.0)).result == 2


@pytest.mark.parametrize("way", ["submit", "watch"])
def test_work_that_somebody_still_asks_for_is_not_dropped(way: str, queue: Queue, clock: SimpleNamespace) -> None:
    with busy(queue):
        job = queue.submit("a", returns(1), patience=15.0)
        for _ in range(5):
            clock.now += 10.0
            assert (job.watch() if way == "watch" else queue.submit("a", returns(2), patience=15.0)) is job
        assert not job.abandoned
    assert ended(job).result == 1


def test_work_without_patience_is_never_abandoned(queue: Queue, clock: SimpleNamespace) -> None:
    with busy(queue):
        job = queue.submit("a", returns(1))
        clock.now += 1e9
    assert ended(job).result == 1


def test_abandoned_running_work_stops_at_its_next_chunk(queue: Queue, clock: SimpleNamespace) -> None:
    def work(progress: NewsProgress) -> None:
        for i in range(5):
            clock.now += 6.0
            progress(i, 5)

    job = ended(queue.submit("a", work, patience=15.0))
    assert (job.state, job.dropped, job.done) == (State.CANCELLED, True, 2)


@pytest.mark.parametrize(("waiting", "dropped"), [(Priority.NORMAL, True), (Priority.LONG, False)])
def test_unwatched_work_makes_way_for_work_of_its_priority_only(
    waiting: Priority, dropped: bool, queue: Queue, clock: SimpleNamespace
) -> None:
    def work(progress: NewsProgress) -> None:
        queue.submit("b", returns(2), priority=waiting)
        clock.now += 5.0
        progress(1, 2)

    job = ended(queue.submit("a", work, patience=15.0))
    assert job.dropped is dropped
    assert ended(queue.submit("b", returns(3), priority=waiting)).result == 2


def test_abandoned_work_that_was_also_cancelled_stays_cancelled(queue: Queue, clock: SimpleNamespace) -> None:
    with busy(queue):
        job = queue.submit("a", returns(1), patience=15.0)
        job.cancel()
        clock.now += 20.0
    assert ended(job).state is State.CANCELLED
    assert not job.dropped
    assert queue.submit("a", returns(2)) is job
    job.forget()
    assert ended(queue.submit("a", returns(3))).result == 3


# Quick jobs


def test_quick_jobs_overtake_waiting_long_ones(queue: Queue) -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[NewsProgress], None]:
        return lambda _progress: order.append(name)

    with busy(queue):
        asked = [
            queue.submit(n, note(n), priority=Priority.QUICK if n.startswith("q") else Priority.NORMAL)
            for n in ("long1", "long2", "q1", "long3", "q2")
        ]
    for job in asked:
        ended(job)
    assert order == ["q1", "q2", "long1", "long2", "long3"]


def chunked(count: int, order: list[str], at: dict[int, Callable[[], Any]]) -> Callable[[NewsProgress], str]:
    """Long work that does something of `at` in the middle of some chunks."""

    def work(progress: NewsProgress) -> str:
        for i in range(count):
            progress(i, count)
            order.append(f"chunk {i}")
            at.get(i, lambda: None)()
        progress(count, count)
        return "long"

    return work


def test_quick_jobs_slip_in_between_the_chunks_of_a_running_long_one(queue: Queue) -> None:
    order: list[str] = []

    def ask() -> None:
        queue.submit("long2", lambda _progress: order.append("long2"))
        queue.submit("quick", lambda _progress: order.append("quick"), priority=Priority.QUICK)

    long = ended(queue.submit("long", chunked(4, order, {1: ask})))
    ended(queue.submit("long2", returns()))
    assert order == ["chunk 0", "chunk 1", "quick", "chunk 2", "chunk 3", "long2"]
    assert (long.result, long.done, long.total) == ("long", 4, 4)


def test_a_quick_job_is_not_interrupted_by_another(queue: Queue) -> None:
    order: list[str] = []

    def quick(progress: NewsProgress) -> None:
        queue.submit("other", lambda _progress: order.append("other"), priority=Priority.QUICK)
        progress(1, 2)
        order.append("quick")

    ended(queue.submit("quick", quick, priority=Priority.QUICK))
    ended(queue.submit("other", returns()))
    assert order == ["quick", "other"]


@pytest.mark.parametrize("error", [ValueError("x"), Cancelled("x")])
def test_a_quick_job_that_fails_harms_no_long_one(error: Exception, queue: Queue) -> None:
    asked: list[Job] = []

    def ask() -> None:
        asked.append(queue.submit("quick", raises(error), priority=Priority.QUICK))

    assert ended(queue.submit("long", chunked(3, [], {1: ask}))).result == "long"
    assert ended(asked[0]).state in (State.FAILED, State.CANCELLED)


def test_cancelling_the_long_job_does_not_cancel_the_quick_one(queue: Queue) -> None:
    asked: list[Job] = []

    def ask() -> None:
        asked.append(queue.submit("quick", returns(1), priority=Priority.QUICK))
        queue.submit("long", returns()).cancel()

    assert ended(queue.submit("long", chunked(3, [], {1: ask}))).state is State.CANCELLED
    assert ended(asked[0]).result == 1


# What is kept


def settle(queue: Queue) -> None:
    """Waits until the worker has tidied up after all that was submitted."""
    for i in range(2):
        ended(queue.submit(f"settle {i}", returns(Result())))


def kept(queue: Queue, keys: str) -> str:
    """Which of the keys need no work."""
    anew = Result()
    return "".join(key for key in keys if ended(queue.submit(key, returns(anew))).result is not anew)


def test_the_least_recently_used_results_go_first(small: Queue) -> None:
    for key in "abc":
        ended(small.submit(key, returns(Result(300_000))))
    small.submit("a", returns())
    assert small.kept_bytes == 900_000
    ended(small.submit("d", returns(Result(300_000))))
    settle(small)
    assert kept(small, "abcd") == "acd"
    assert small.kept_bytes == 900_000


def test_several_results_in_one_count_together(small: Queue) -> None:
    ended(small.submit("a", lambda _progress: [Result(300_000), (bytes(100_000), Result(50_000))]))
    assert small.kept_bytes == 450_000


def test_a_dropped_result_is_computed_anew(small: Queue) -> None:
    old = ended(small.submit("a", returns(Result(800_000))))
    ended(small.submit("b", returns(Result(800_000))))
    settle(small)
    again = ended(small.submit("a", returns(Result(7))))
    assert again is not old
    assert (old.result.nbytes, again.result.nbytes) == (800_000, 7)


def test_the_newest_result_is_kept_however_large(small: Queue) -> None:
    with busy(small):
        small.submit("a", returns(Result(100_000)))
        large = small.submit("large", returns(Result(5 * MB)))
        last = small.submit("last", returns(Result()))
        small.submit("busy", returns())
        small.submit("large", returns())
    ended(last)
    ended(large)
    until(lambda: small.kept_bytes <= 5 * MB, lambda: f"{small.kept_bytes} bytes are kept")
    assert small.kept_bytes == 5 * MB
    assert small.submit("large", returns()) is large


def test_an_unfinished_job_is_never_dropped_even_where_it_is_the_oldest(small: Queue) -> None:
    with busy(small):
        old = small.submit("old", returns(Result()))
        large = [small.submit(k, returns(Result(600_000)), priority=Priority.QUICK) for k in "abc"]
    for job in (*large, old):
        ended(job)
    settle(small)
    assert small.submit("old", returns()) is old
    assert 600_000 <= small.kept_bytes <= MB


def test_results_of_quick_jobs_that_slip_in_are_bounded_too(small: Queue) -> None:
    held: list[int] = []

    def ask() -> None:
        for i in range(5):
            small.submit(f"quick {i}", returns(Result(400_000)), priority=Priority.QUICK)

    ended(small.submit("long", chunked(4, [], {1: ask, 3: lambda: held.append(small.kept_bytes)})))
    assert held[0] <= MB + 1024


# NewsProgress


def test_progress_and_the_time_left_can_be_read_while_it_runs(queue: Queue, clock: SimpleNamespace) -> None:
    seen: list[Any] = []

    def work(progress: NewsProgress) -> None:
        job = queue.submit("a", returns())
        progress(0, 10)
        seen.append((job.state, job.done, job.total, job.seconds_left))
        clock.now += 8.0
        progress(2, 10)
        seen.append((job.state, job.done, job.total, job.seconds_left))
        clock.now += 2.0
        progress(10, 10)
        seen.append((job.state, job.done, job.total, job.seconds_left))

    with busy(queue):
        job = queue.submit("a", work)
        assert (job.state, job.seconds_left) == (State.WAITING, None)
        clock.now += 1000.0
    ended(job)
    running = State.RUNNING
    assert seen == [(running, 0, 10, None), (running, 2, 10, pytest.approx(32.0)), (running, 10, 10, pytest.approx(0.0))]
    assert (job.state, job.seconds_left) == (State.DONE, None)


def test_waiting_for_a_job_can_be_bounded(queue: Queue) -> None:
    with busy(queue) as job:
        assert not job.wait(0.01)
    assert job.wait(LIMIT)


# Queues


def test_a_name_stands_for_one_queue() -> None:
    assert jobs.queue("test a") is jobs.queue("test a")
    assert jobs.queue("test a") is not jobs.queue("test b")


def test_threads_that_ask_for_a_queue_at_once_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: object, **options: object) -> Queue:
        time.sleep(0.02)
        return Queue(*args, **options)

    monkeypatch.setattr(jobs, "Queue", slow)
    start = threading.Barrier(4)

    def ask(_i: int) -> Queue:
        start.wait(LIMIT)
        return jobs.queue("test at once")

    with ThreadPoolExecutor(4) as threads:
        assert len(set(map(id, threads.map(ask, range(4))))) == 1


def test_two_queues_work_at_the_same_time(queue: Queue, small: Queue) -> None:
    with busy(queue) as first:
        assert ended(small.submit("a", returns(1))).result == 1
        assert not first.ended


def test_closing_a_queue_stops_its_work_at_the_next_chunk_and_releases_all_who_wait(queue: Queue) -> None:
    inside, order = threading.Event(), []

    def endless(progress: NewsProgress) -> None:
        while True:
            inside.set()
            progress(0, 1)

    asked = [
        queue.submit("a", endless),
        *(queue.submit(k, lambda _: order.append(1), priority=Priority.QUICK if k == "q" else Priority.NORMAL) for k in "bc"),
    ]
    assert inside.wait(LIMIT)
    queue.close()
    assert [ended(job).state for job in asked] == [State.CANCELLED] * 3
    assert not order


def test_work_for_a_closed_queue_is_cancelled_at_once(queue: Queue) -> None:
    queue.close()
    job = queue.submit("a", returns(1))
    assert job.ended
    assert job.state is State.CANCELLED
