"""Hand units out to workers, store what they send, and replace workers that die."""

from collections import Counter
from collections.abc import Generator, Sequence

import torch

from attrlib.engine.evaluations import Evaluation
from attrlib.engine.executors.assignments import DEATHS, Assignment
from attrlib.engine.executors.crew import Crew
from attrlib.engine.executors.messages import (
    AddMaps,
    AddRecords,
    Ask,
    Beat,
    Died,
    Do,
    Failed,
    Forget,
    Load,
    Message,
    Ready,
    Refused,
    Reply,
    Step,
)
from attrlib.engine.executors.worker_spec import worker_spec
from attrlib.engine.plan import FORWARD_PASSES, Plan, item_seconds
from attrlib.engine.work import Heartbeat, PredictUnit, UnitResult, WorkUnit
from attrlib.errors import AttrlibError, ModelError

WAIT = 0.1
"""Seconds to wait for a message before the progress callback is called again."""
AHEAD = 2
"""Number of units that a worker has at most: the one in progress, and one whose images it loads meanwhile."""
STARTS = 3
"""Number of workers that may die one after the other before any of them has loaded the run."""


class Dispatcher:
    """Execute units on a crew.

    Units go to workers by cost, largest first. A worker that dies is replaced, and its units go to others. A worker whose
    models or files differ is refused.

    Args:
        plan: The plan of the run.
        heartbeat: Called several times a second; raises `Cancelled` to stop.
        crew: The workers. They outlive this executor.

    Raises:
        SpecError: If a model or the data exist only in the memory of this process.
    """

    def __init__(self, plan: Plan, heartbeat: Heartbeat, crew: Crew):
        self._plan, self._heartbeat, self._crew = plan, heartbeat, crew
        self._spec = worker_spec(plan, crew.sharing, crew.threads, crew.data_roots)
        self._assigned: dict[int, list[int]] = {}
        """Serial numbers of the units of each worker, by the worker's number; the first one is in progress."""
        self._ready: set[int] = set()
        self._units: dict[int, Assignment] = {}
        """Units without their last result, by serial number."""
        self._waiting: list[int] = []
        self._serials = 0
        self._failed_starts: list[str] = []
        self._lost: list[str] = []
        self._refused_evaluations: set[Evaluation] = set()
        self._doing = "starting workers"
        self.refused: dict[int, str] = {}

    @property
    def workers(self) -> int:
        """Return the number of workers that have loaded the run."""
        return len(self._ready)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on workers that were refused or died."""
        notes = [f"{reason}; the run went on without it" for reason in self.refused.values()]
        counts = Counter(self._lost)
        return (*notes, *(f"{count} worker(s) died and were replaced: {reason}" for reason, count in counts.items()))

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of units of one kind, as they arrive."""
        self._open(units)
        try:
            while self._units:
                self._staff()
                for serial in self._hand_out():
                    # All that was left of it is refused, or was stored by a worker that died.
                    yield UnitResult(self._units.pop(serial).number, finished=True)
                received = self._crew.receive(WAIT)
                result = received and self._handle(*received)
                if result:
                    unit = self._units.pop(result.unit) if result.finished else self._units[result.unit]
                    yield unit.take(result)
                self._heartbeat(self._doing)
        finally:
            self._drop()

    def close(self) -> None:
        """Do nothing: the crew outlives the run."""

    def _open(self, units: Sequence[WorkUnit]) -> None:
        """Number the units and sort them by cost. A run that may stop early needs the first items first."""
        costs = [0.0 if self._plan.spec.ci_width is not None else self._cost(unit) for unit in units]
        order = sorted(range(len(units)), key=lambda number: -costs[number])
        self._units = {self._serials + place: Assignment(number, units[number]) for place, number in enumerate(order)}
        self._serials += len(units)
        self._waiting = list(self._units)

    def _cost(self, unit: WorkUnit) -> float:
        if isinstance(unit, PredictUnit):
            return len(unit.items)
        return sum(len(positions) * item_seconds(each, self._plan.model, FORWARD_PASSES) for each, positions in unit.missing)

    # Workers

    def _staff(self) -> None:
        """Start as many workers as there are units for, and let those of the crew load this run."""
        wanted = min(self._crew.size - len(self.refused), len(self._units))
        if wanted <= 0:
            raise AttrlibError(f"no worker is left: {'; '.join(dict.fromkeys(self.refused.values()))}")
        for _ in range(wanted - len(set(self._crew.members) - self.refused.keys())):
            self._crew.start()
        for member in self._crew.members:
            if member not in self._assigned and member not in self.refused:
                self._assigned[member] = []
                self._crew.send(member, Load(self._spec, self._crew.device(member, self._plan.model)))

    def _hand_out(self) -> list[int]:
        """Send waiting units to workers, and return those of which nothing is left to compute."""
        finished = []
        for ahead in range(AHEAD):
            for member in sorted(self._ready, key=lambda member: len(self._assigned[member])):
                # At the end, no unit waits behind another while a worker idles or is about to be ready.
                if len(self._assigned[member]) != ahead or (ahead and len(self._waiting) < len(self._assigned)):
                    continue
                while (serial := self._next()) is not None:
                    self._waiting.remove(serial)
                    unit = self._units[serial].remaining(self._refused_evaluations)
                    if unit is None:
                        finished.append(serial)
                        continue
                    self._assigned[member].append(serial)
                    self._crew.send(member, Do(serial, unit))
                    break
        return finished

    def _next(self) -> int | None:
        """Return the first waiting unit none of whose images is in progress, so that nothing is measured twice."""
        if not self._waiting:
            return None
        held = [serial for serials in self._assigned.values() for serial in serials if serial in self._units]
        busy = {image for serial in held for image in self._units[serial].images}
        return next((serial for serial in self._waiting if not busy & self._units[serial].images), None)

    def _bury(self, member: int, reason: str, blamed: bool) -> UnitResult | None:
        """Give the units of a worker that died to others, unless the one in progress has ended too many."""
        self._crew.stop(member)
        serials = self._release(member)
        if member not in self._ready:
            self._failed_starts.append(reason)
            if len(self._failed_starts) >= STARTS:
                raise AttrlibError(f"workers die while they start: {reason}")
            return None
        self._ready.discard(member)
        self._lost.append(reason)
        self._waiting = serials + self._waiting
        if not serials or not blamed:
            return None
        unit = self._units[serials[0]]
        unit.deaths.append(reason)
        if len(unit.deaths) < DEATHS:
            return None
        self._waiting.remove(serials[0])
        why = f"computing them ended {DEATHS} workers, the last one by: {reason}"
        return UnitResult(serials[0], set_aside=dict.fromkeys(unit.images, why), finished=True)

    def _dismiss(self, member: int, reason: str) -> None:
        """Give the units of a worker to others, and do without it in this run; it may serve the next one."""
        self.refused[member] = f"{self._crew.name(member)} was refused: {reason}"
        self._ready.discard(member)
        self._waiting = self._release(member) + self._waiting

    def _release(self, member: int) -> list[int]:
        """Return the unfinished units of a worker, which is forgotten."""
        return [serial for serial in self._assigned.pop(member) if serial in self._units]

    def _drop(self) -> None:
        """Let workers drop what they have not finished."""
        for member, serials in self._assigned.items():
            if serials:
                self._crew.send(member, Forget())
                serials.clear()
        self._units, self._waiting = {}, []

    # Messages

    def _handle(self, member: int, message: Message) -> UnitResult | None:
        """Answer a message, store what it carries, and return the result that it brings."""
        if isinstance(message, Ask):
            self._crew.send(member, Reply(message.number, self._answer(message)))
        elif isinstance(message, AddRecords):
            self._plan.store.add_records(message.key, message.fields, message.records)
        elif isinstance(message, AddMaps):
            self._plan.store.add_maps({key: torch.tensor(values) for key, values in message.maps.items()})
        elif isinstance(message, Died):
            if member in self._assigned:
                return self._bury(member, message.reason, message.blamed)
        elif member in self._assigned:
            return self._follow(member, message)
        return None

    def _follow(self, member: int, message: Message) -> UnitResult | None:
        """Follow the work of a worker that is at work for this run."""
        if isinstance(message, Ready):
            self._ready.add(member)
            self._failed_starts.clear()
        elif isinstance(message, Refused):
            self._dismiss(member, message.reason)
        elif isinstance(message, Beat):
            self._doing = message.doing
        elif isinstance(message, Failed):
            raise message.error
        elif isinstance(message, Step) and message.result.unit in self._assigned[member]:
            serial, result = message.result.unit, message.result
            if result.refused:
                self._refused_evaluations.add(self._units[serial].evaluation(result))
            if result.finished:
                self._assigned[member].remove(serial)
            return result
        return None

    def _answer(self, question: Ask) -> object:
        if question.kind == "file":
            return self._file(*question.arguments)
        if question.kind == "maps":
            return {key: values.numpy() for key, values in self._plan.store.maps(*question.arguments).items()}
        return self._plan.store.records(*question.arguments) if question.kind == "records" else self._plan.store.values(*question.arguments)

    def _file(self, path: str) -> object:
        try:
            return self._crew.file(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read any more ({error.strerror}); workers need it to load the model") from None
