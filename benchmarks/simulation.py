"""Simulate large runs: the dispatcher of the engine hands units of real methods to workers that exist only as a clock.

What decides on the time is not copied but imported: how units are cut, what a method costs relative to a forward pass, and to whom a unit
goes. Made up are the workers, which take a unit's cost in seconds, and the driver, which takes some seconds for each record that it
stores. Not simulated are images that arrive more slowly than they are computed, and workers that die.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attrlib.engine.evaluations import ItemGroup
from attrlib.engine.executors.dispatcher import Dispatcher
from attrlib.engine.executors.messages import Do, Load, Message, Ready, Step
from attrlib.engine.items import EvalItem, chunked
from attrlib.engine.plan import FORWARD_PASSES, Plan, item_seconds
from attrlib.engine.work import EvaluateUnit, PredictUnit, UnitResult, WorkUnit
from attrlib.models import Classifier


@dataclass(frozen=True)
class Costs:
    """Unit costs.

    Attributes:
        passes: Forward passes a second of a worker.
        load: Seconds until a worker has started and loaded the model.
        record: Seconds of the driver to receive and store a record.
    """

    passes: float
    load: float
    record: float


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation.

    Attributes:
        workers: Number of workers.
        seconds: Seconds from the start of the workers to the last record.
        working: Seconds in which workers computed, added up.
        storing: Seconds in which the driver received and stored records.
        records: Number of records.
    """

    workers: int
    seconds: float
    working: float
    storing: float
    records: int

    @property
    def utilisation(self) -> float:
        """Return the share of the workers' time in which they computed."""
        return self.working / (self.workers * self.seconds)

    @property
    def driver(self) -> float:
        """Return the share of the driver's time in which it received and stored records."""
        return self.storing / self.seconds

    @property
    def rate(self) -> float:
        """Return the records stored a second."""
        return self.records / self.seconds


class SimulatedCrew:
    """Workers that take the cost of a unit in seconds of a clock, which moves on when the driver waits for them.

    Args:
        size: Number of workers.
        model: The model.
        costs: Unit costs.

    Attributes:
        now: Seconds at the driver.
        working: Seconds in which workers computed, added up.
        storing: Seconds in which the driver stored records.
        records: Number of records that the driver has stored.
    """

    sharing, threads, data_roots = 1, 1, ()

    def __init__(self, size: int, model: Classifier, costs: Costs):
        self.size, self.now, self.working, self.storing, self.records = size, 0.0, 0.0, 0.0, 0
        self.members: tuple[int, ...] = ()
        self._model, self._costs = model, costs
        self._free: dict[int, float] = {}
        self._order = itertools.count()
        self._coming: list[tuple[float, int, int, Message, int]] = []

    def start(self) -> int:
        """Start a worker."""
        self.members = (*self.members, len(self.members))
        return self.members[-1]

    def device(self, member: int, model: Classifier) -> str:
        """Return the device of a worker."""
        return "cpu"

    def name(self, member: int) -> str:
        """Return the name of a worker."""
        return f"worker {member}"

    def send(self, member: int, message: Message) -> None:
        """Let a worker load the run, or execute a unit after those that it has."""
        if isinstance(message, Load):
            self._free[member] = self.now + self._costs.load
            self._answer(member, Ready(), 0)
        elif isinstance(message, Do):
            seconds = self._seconds(message.unit)
            self.working += seconds
            self._free[member] = max(self.now, self._free[member]) + seconds
            self._answer(member, Step(UnitResult(message.serial, finished=True)), records_of(message.unit))

    def receive(self, seconds: float) -> tuple[int, Message] | None:
        """Return the next message, once the driver has stored its records."""
        if not self._coming:
            return None
        sent, _, member, message, records = heapq.heappop(self._coming)
        self.now = max(self.now, sent) + records * self._costs.record
        self.storing += records * self._costs.record
        self.records += records
        return member, message

    def file(self, path: str) -> bytes:
        """Return the content of a file."""
        return b""

    def stop(self, member: int) -> None:
        """End a worker."""

    def close(self) -> None:
        """End all workers."""

    def _answer(self, member: int, message: Message, records: int) -> None:
        heapq.heappush(self._coming, (self._free[member], next(self._order), member, message, records))

    def _seconds(self, unit: WorkUnit) -> float:
        return passes_of(unit, self._model) / self._costs.passes


def passes_of(unit: WorkUnit, model: Classifier) -> float:
    """Return the cost of a unit in forward passes, measurements included."""
    if isinstance(unit, PredictUnit):
        return len(unit.items)
    measured: dict[object, set[int]] = defaultdict(set)
    for each, positions in unit.missing:
        for measurement in each.protocol.measurements:
            measured[measurement].update(positions)
    shared = sum(len(positions) * measurement.forwards() for measurement, positions in measured.items())  # type: ignore[attr-defined]
    return shared + sum(len(positions) * item_seconds(each, model, FORWARD_PASSES) for each, positions in unit.missing)


def records_of(unit: WorkUnit) -> int:
    """Return the number of records of a unit: its scores, and its measurements."""
    if isinstance(unit, PredictUnit):
        return len(unit.items)
    measurements = {measurement for each, _ in unit.missing for measurement in each.protocol.measurements}
    return len(unit.items) * len(measurements) + sum(len(positions) for _, positions in unit.missing)


def made_up_units(group: ItemGroup, images: int) -> list[EvaluateUnit]:
    """Return the units of a run over so many images, of which nothing is cached.

    Args:
        group: The evaluations.
        images: Number of images.
    """
    items = [EvalItem(f"{number:032x}", (number,), (0,)) for number in range(images)]
    return [
        EvaluateUnit(chunk, tuple((each, tuple(range(len(chunk)))) for each in group.evaluations))
        for chunk in chunked(items, group.chunk_size)
    ]


def simulate(plan: Plan, units: Sequence[WorkUnit], workers: int, costs: Costs) -> Simulated:
    """Return what the units of one model take.

    Args:
        plan: A plan with the model and the evaluations of the units.
        units: The units.
        workers: Number of workers.
        costs: Unit costs.
    """
    crew = SimulatedCrew(workers, plan.model, costs)
    for _ in Dispatcher(plan, lambda _doing: None, crew).map(units):
        pass
    return Simulated(workers, crew.now, crew.working, crew.storing, crew.records)


def shares(group: ItemGroup, model: Classifier) -> Mapping[str, float]:
    """Return the share of each method in the cost of an image, the largest first."""
    passes = {str(each.method_spec): item_seconds(each, model, FORWARD_PASSES) for each in group.evaluations}
    total = sum(passes.values())
    return {name: count / total for name, count in sorted(passes.items(), key=lambda pair: -pair[1])}
