"""Crews for tests, a store that counts what is added, and pictures for quick runs."""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import psutil
from torch import Tensor

from attrlib.engine.executors.crew import Crew
from attrlib.engine.executors.dispatcher import Dispatcher
from attrlib.engine.executors.processes import ProcessCrew
from attrlib.engine.executors.ray_crew import RayCrew
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import ExecutorFactory, Heartbeat, RunListener, local, run
from attrlib.progress import no_listener
from attrlib.specs import RunSpec
from attrlib.store import Record, Store

KINDS = ("processes", "ray")
KILLS = int(os.environ.get("ATTRLIB_TEST_KILLS", 1))
"""How often tests kill a worker or a driver at a random moment."""
MODEL = "birds_resnet10_tuned"


@contextmanager
def crew_of(kind: str, size: int = 2) -> Iterator[Crew]:
    """Return workers of a kind."""
    with closing(ProcessCrew(size) if kind == "processes" else RayCrew("ray", size, "cpu")) as crew:
        yield crew


def on(crew: Crew) -> ExecutorFactory:
    def factory(plan: Plan, heartbeat: Heartbeat) -> Dispatcher:
        return Dispatcher(plan, heartbeat, crew)

    return factory


class CountingStore(Store):
    """A store that counts how often each record and map is added, by this process or one before."""

    def __init__(self, folder: Path):
        super().__init__(folder=folder)
        self.added: Counter[tuple[str, str]] = Counter()

    def add_records(self, key: str, spec: Mapping, records: Mapping[str, Record]) -> None:
        if spec["kind"] != "seconds":  # a note on the side, kept as it was measured first
            self.added.update((key, item) for item in [*records, *self.values(key, list(records))])
        super().add_records(key, spec, records)

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        self.added.update(("map", key) for key in maps)
        super().add_maps(maps)

    @property
    def repeated(self) -> list[tuple[str, str]]:
        return [name for name, count in self.added.items() if count > 1]


def executed(spec: RunSpec, folder: Path, executor: ExecutorFactory = local, on_progress: RunListener = no_listener) -> RunResult:
    """Run a spec with a store in a folder; nothing may be added twice."""
    model = attrlib.load_model(spec.model.architecture, "cpu", **spec.model.options())
    with closing(CountingStore(folder)) as store:
        try:
            result = run(make_plan(spec, model, attrlib.load_dataset(spec.data), store), on_progress, executor)
        finally:
            assert store.repeated == []
        scores = {pair: replace(score, details=list(score.details)) for pair, score in result.scores.items()}
    return replace(result, scores=scores)


def copied_birds(folder: Path, indices: Sequence[int]) -> Path:
    """Write some birds into class folders."""
    data = attrlib.load_dataset("birds")
    for index in indices:
        item = data[index]
        place = folder / data.class_names[item.label or 0]
        place.mkdir(parents=True, exist_ok=True)
        item.image.save(place / f"{index:04}.png", compress_level=1)
    return folder


def worker_pids(crew: Any) -> list[int]:
    """Return the processes of a crew's workers."""
    if isinstance(crew, ProcessCrew):
        return list(crew.pids.values())
    return [process.pid for process in actor_processes()]


def actor_processes() -> list[psutil.Process]:
    """Return the processes of the actors of a cluster that this process has started."""
    return [process for process in psutil.Process().children(recursive=True) if _name(process).startswith("ray::Actor")]


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
