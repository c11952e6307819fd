"""A run that is killed with SIGKILL at random moments and begun again until it is done, against one that nobody disturbs.

A server loads the library once; each attempt is a process of its own that it forks, so that twenty of them take seconds.
"""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support import runs
from support.runs import GRID
from support.waiting import LIMIT, until

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.engine.evaluations import Evaluation
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.work import Worker
from attrlib.protocols import Batch, Measurement
from attrlib.specs import digest
from attrlib.store import Store, Verified

KILLS = 20
CHUNK = 4
PAUSE = 0.004
"""Seconds that a map takes at least."""
PROTOCOLS, METHODS = f"sds,sds:target=prediction,{GRID}", "IxG,Random,Gradient,IG:steps=3"


def attempt(number: int, most: int | None, cache: str, data: str, log: str, result: str) -> None:
    """One run, in a process of its own, which writes down whatever it begins to compute before it does.

    It goes no further than the beginning of so many computations, where it waits to be killed.
    """
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    begun = 0

    def begin(what: str, items: list[str]) -> None:
        nonlocal begun
        begun += 1
        os.write(lines, json.dumps([number, what, items]).encode() + b"\n")
        time.sleep(PAUSE * len(items))
        while most is not None and begun >= most:
            time.sleep(PAUSE)

    attribute, score, measure = attrlib.engine.evaluator.attribute_each, Worker._score, Evaluator.measure

    def logged_attribute(view: Any, specs: Any, images: Any, targets: Any, options: Any, owners: Any) -> Any:
        owned = range(len(images)) if owners is None else owners
        contents = [digest(images[k].contiguous().numpy().tobytes()) for k in owned]
        pairs = list(zip(contents, targets, strict=True))
        begin(f"map {type(view).__name__}", [f"{spec} {content} {target}" for spec in specs for content, target in pairs])
        return attribute(view, specs, images, targets, options, owners)

    def logged_score(self: Worker, evaluator: Any, evaluation: Evaluation, items: Any, *rest: Any) -> Any:
        begin(f"score {evaluation.protocol} {evaluation.method}", [item.id for item in items])
        return score(self, evaluator, evaluation, items, *rest)

    def logged_measure(self: Evaluator, measurement: Measurement, batch: Batch, targets: Any = None) -> Any:
        own = measurement.measure

        def logged(setting: Any, part: Batch, chosen: Any) -> Any:
            begin(
                f"measurement {measurement}",
                list(part.ids) if targets is None else [f"{i} {t}" for i, t in zip(part.ids, chosen.tolist(), strict=True)],
            )
            return own(setting, part, chosen)

        object.__setattr__(measurement, "measure", logged)
        try:
            return measure(self, measurement, batch, targets)
        finally:
            object.__delattr__(measurement, "measure")

    attrlib.engine.evaluator.attribute_each = logged_attribute
    Worker._score, Evaluator.measure = logged_score, logged_measure  # type: ignore[method-assign]
    attrlib.engine.evaluations.BATCH_SIZE = attrlib.engine.plan.BATCH_SIZE = CHUNK
    with closing(Store(folder=Path(cache))) as store:
        found = runs.compare(runs.classifier(), PROTOCOLS, METHODS, data, store)
    scores = {key: (s.values.tobytes(), s.ids, s.items, repr(list(map(dict, s.details)))) for key, s in runs.named(found).items()}
    Path(result).write_bytes(pickle.dumps((scores, found.computed, found.cached, found.notes)))


def serve() -> None:
    """Forks a process for each line of arguments; says its number at once, and how it ended when it has."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                attempt(*json.loads(line))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)  # noqa: T201
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ATTRLIB_CACHE": os.devnull}
    path = os.pathsep.join(str(Path(__file__).parents[k]) for k in range(3))
    command = [sys.executable, "-c", "import test_kill; test_kill.serve()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment | {"PYTHONPATH": path}
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(LIMIT) == 0


class Attempt:
    """A process that computes, and what it wrote down so far."""

    def __init__(self, server: subprocess.Popen[str], number: int, folder: Path, data: Path, most: int | None = None):
        assert server.stdin is not None
        assert server.stdout is not None
        self.server, self.log, self.result = server, folder / "log", folder / "result"
        self.log.touch()
        self.before = self.log.stat().st_size
        server.stdin.write(json.dumps([number, most, *map(str, (folder / "cache", data, self.log, self.result))]) + "\n")
        server.stdin.flush()
        self.process = int(server.stdout.readline())

    def lines(self) -> int:
        with self.log.open("rb") as file:
            file.seek(self.before)
            return file.read().count(b"\n")

    def end(self) -> int:
        """Waits until it has ended; its exit code, or minus the signal."""
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def kill_after(self, lines: int, delay: float) -> int:
        """Kills it so many seconds after it has begun so many computations."""
        until(lambda: self.lines() >= lines, lambda: f"{self.lines()} computations have begun")
        time.sleep(delay)
        os.kill(self.process, signal.SIGKILL)
        return self.end()


Line = tuple[int, str, list[str]]


def read_log(folder: Path) -> list[Line]:
    return [tuple(json.loads(line)) for line in (folder / "log").read_text().splitlines()]  # type: ignore[misc]


def times(lines: list[Line]) -> Counter[tuple[str, str]]:
    return Counter((what, item) for _, what, items in lines for item in items)


def in_flight(lines: list[Line]) -> set[tuple[int, str, str]]:
    """What each attempt began last: a score, and a map or measurement that it needs. Only this may be lost."""
    last: dict[tuple[int, bool], Line] = {}
    for line in lines:
        last[line[0], line[1].startswith("score")] = line
    return {(number, what, item) for number, what, items in last.values() for item in items}


def test_a_run_that_is_killed_twenty_times_is_that_of_nobody_killing_it(server: subprocess.Popen[str], tmp_path: Path) -> None:
    data = runs.pictures(tmp_path / "pictures", 5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert Attempt(server, 0, whole, data).end() == 0
    scores, computed, known, notes = pickle.loads((whole / "result").read_bytes())
    needed = times(read_log(whole))
    assert set(needed.values()) == {1}
    assert (computed, known) == (4 * (25 + 25 + 6), 0)
    assert len(scores) == 12

    moments = random.Random(7)
    for number in range(KILLS):
        lines = moments.choice((0, 1, 2, 3, 4, 5))
        # From opening the store to the fifth computation, anywhere in it or while it is stored; at the latest at the second one after.
        code = Attempt(server, number, killed, data, lines + 2).kill_after(lines, moments.uniform(0, 6 * PAUSE))
        assert code == -signal.SIGKILL, f"attempt {number} came to an end before it was killed"
    assert not (killed / "result").exists()
    assert Attempt(server, KILLS, killed, data).end() == 0
    found, computed_last, known_last, notes_last = pickle.loads((killed / "result").read_bytes())

    assert found == scores, "bit for bit"
    assert notes_last == notes
    assert 0 < computed_last < computed
    assert known_last + computed_last == computed
    lines = read_log(killed)
    done = times(lines)
    assert set(done) == set(needed)
    assert sum(done.values()) > sum(needed.values()), "nothing was in flight at any of the kills"
    lost = in_flight(lines)
    for what, item in (name for name, count in done.items() if count > 1):
        *repeated, _last = [number for number, other, items in lines if other == what and item in items]
        assert all((number, what, item) in lost for number in repeated), f"{what} of {item} was computed again though it was stored"
    with closing(Store(folder=killed / "cache")) as store:
        verified = store.verify()
        assert verified == Verified(verified.maps, 0, 0, verified.orphans, 0)
        assert [run.state for run in store.runs()] == ["done"]
        assert store.notes == ()


def test_a_run_that_nobody_kills_computes_nothing_again(server: subprocess.Popen[str], tmp_path: Path) -> None:
    """The log is complete, and the store is found by another process."""
    data = runs.pictures(tmp_path / "pictures", 2)
    for number in range(2):
        assert Attempt(server, number, tmp_path, data).end() == 0
    lines = read_log(tmp_path)
    assert {number for number, _, _ in lines} == {0}
    kinds = Counter(what.split()[0] for _, what, _ in lines)
    assert set(kinds) == {"score", "map", "measurement"}
    # Scores of two targets and of two grids; maps of pictures, and of four classes for each grid.
    assert sum(len(items) for _, what, items in lines if what.startswith("score")) == 4 * (10 + 10 + 2)
    assert sum(len(items) for _, what, items in lines if what.startswith("map")) == 4 * (10 + 2 * 4)
