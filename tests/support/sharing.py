"""Runs of one spec in several processes that share a database, each of which writes down what it computes."""

import json
import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import attrlib.engine.claims
import attrlib.engine.evaluations
import attrlib.engine.plan
from attrlib.engine.evaluations import Evaluation
from attrlib.engine.work import Worker
from attrlib.store import Claims, Store
from support import runs

CHUNK = 2
PROTOCOLS, METHODS = "sds,sds:target=prediction", "IxG,IG:steps=3"


def take_part(number: int, url: str, folder: Path, data: Path, lease: float, then: str, barrier: Any) -> None:
    """Run in a process of its own, which begins to score only when all others are about to.

    Args:
        number: Number of the process.
        url: The database.
        folder: Folder of logs and results; maps are not shared.
        data: The pictures.
        lease: Seconds of its claims.
        then: What happens when all are about to score: `go on`, `die` or `freeze`.
        barrier: Where the processes meet.
    """
    attrlib.engine.evaluations.BATCH_SIZE = attrlib.engine.plan.BATCH_SIZE = CHUNK
    attrlib.engine.claims.UNITS_PER_WORKER = 1
    init, score = Claims.__init__, Worker._score
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    met = False

    def shorter(self: Claims, database: Any, _lease: float = 0.0) -> None:
        init(self, database, lease)

    def logged(self: Worker, evaluator: Any, evaluation: Evaluation, items: Any, *rest: Any) -> Any:
        nonlocal met
        os.write(log, json.dumps([number, str(evaluation), [item.id for item in items]]).encode() + b"\n")
        if not met:
            met = True
            barrier.wait()
            if then != "go on":
                os.kill(os.getpid(), {"die": signal.SIGKILL, "freeze": signal.SIGSTOP}[then])
        return score(self, evaluator, evaluation, items, *rest)

    Claims.__init__, Worker._score = shorter, logged  # type: ignore[method-assign,assignment]
    with closing(Store(url, folder / str(number))) as store:
        result = runs.compare(runs.classifier(), PROTOCOLS, METHODS, data, store)
        assert store.notes == ()
    (folder / f"result{number}.part").write_bytes(pickle.dumps((summary(result), result.computed, result.cached)))
    os.replace(folder / f"result{number}.part", folder / f"result{number}")


def summary(result: attrlib.RunResult) -> dict[Any, Any]:
    """Return everything that a result says of its scores."""
    return {key: (s.values.tobytes(), s.ids, s.items, repr(list(map(dict, s.details)))) for key, s in runs.named(result).items()}


class Together:
    """Processes that take part in a run."""

    def __init__(self, url: str, folder: Path, data: Path):
        self.url, self.folder, self.data = url, folder, data
        folder.mkdir()
        self._context = multiprocessing.get_context("forkserver")
        # Loaded once, by the process from which all others fork.
        self._context.set_forkserver_preload(["attrlib", "support.runs", "support.sharing", "attrlib.store.database"])

    def start(self, fates: Sequence[tuple[str, float]]) -> list[BaseProcess]:
        """Start a process for each fate, see `take_part`, and seconds of its lease."""
        # Kept here, as the processes find it by a name that goes with it.
        self._barrier = self._context.Barrier(len(fates))
        started: list[BaseProcess] = []
        for number, (then, lease) in enumerate(fates):
            arguments = (number, self.url, self.folder, self.data, lease, then, self._barrier)
            started.append(self._context.Process(target=take_part, args=arguments, daemon=True))
            started[-1].start()
        return started

    def result(self, number: int) -> tuple[dict[Any, Any], int, int]:
        """Return scores, number of computed and number of cached results of a process that has ended."""
        return pickle.loads((self.folder / f"result{number}").read_bytes())

    def begun(self) -> dict[int, Counter[tuple[str, str]]]:
        """Return how often each process has begun each evaluation of each item."""
        times: dict[int, Counter[tuple[str, str]]] = {}
        for line in (self.folder / "log").read_text().splitlines():
            number, evaluation, items = json.loads(line)
            times.setdefault(number, Counter()).update((evaluation, item) for item in items)
        return times
