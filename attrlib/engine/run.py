"""Executes a run: chunk by chunk, everything stored as soon as it is known, so that it can end at any moment and go on later."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.engine.bench import Bench
from attrlib.engine.fast import map_agreement
from attrlib.engine.loading import Loader, part
from attrlib.engine.memory import Probe, rows_within
from attrlib.engine.plan import Group, Part, Refused, filter_benches, find_parts, item_seconds, select
from attrlib.engine.scores import RunResult, Score
from attrlib.engine.units import Unit, left_out
from attrlib.errors import AttrlibError, Cancelled, DataError, LayerError, MethodError, OutOfMemory, ProtocolError
from attrlib.methods import BATCH_SIZE, Passes
from attrlib.methods import create as create_method
from attrlib.models import Classifier
from attrlib.progress import Listener, no_listener
from attrlib.protocols import Prediction
from attrlib.specs import MethodSpec, RunSpec, digest
from attrlib.statistics import Summary, summary
from attrlib.store import Record, Store

PASSES_AT_ONCE = 512
"""Passes in one unit of work: an item of an expensive method is stored, and seen, before the next one is begun."""
FEWEST_FOR_WIDTH = 10
"""Items before an interval is trusted to stop a run."""
NOMINAL = Probe(forward=1.0, gradient=2.5, row_bytes=0)
"""Passes in units of a forward pass, to weigh the parts of a run against each other."""


@dataclass(frozen=True)
class Event:
    """How far a run is: items done of those that must be computed, items a second, seconds left (None before anything is known),
    what it is doing, the score of each part so far, by protocol and method, and what the items are a count of.
    """

    doing: str
    done: int = 0
    total: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    scores: Mapping[tuple[str, str], Summary] = field(default_factory=dict)
    of: str = "results"


Watch = Listener[Event]
"""Called every few passes; raises `Cancelled` to stop the run."""


def run(
    spec: RunSpec,
    model: Classifier,
    data: Dataset,
    store: Store,
    watch: Watch = no_listener,
    max_memory: int | None = None,
    filter_models: Sequence[Classifier] = (),
) -> RunResult:
    """Computes what is not in the store, and returns the scores; `filter_models` are those that the spec names.

    What is not defined for the model is in `refused` with the reason; raises the first such reason where nothing is defined.
    Raises `Cancelled` when `watch` does: what was computed until then is kept, and the next run of the same spec goes on from there.
    """
    return _Run(spec, model, data, store, watch, max_memory, filter_models).execute()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        spec: RunSpec,
        model: Classifier,
        data: Dataset,
        store: Store,
        watch: Watch,
        max_memory: int | None,
        filter_models: Sequence[Classifier],
    ):
        self.spec, self.model, self.data, self.store, self.watch = spec, model, data, store, watch
        self.max_memory = max_memory
        self.bench = Bench(model, store, spec.seed, spec.fast, progress=lambda _done, _total: self.watch(self.event))
        self.filters = filter_benches(spec, filter_models, store)
        self.loader = Loader(model, data)
        self.event = Event("planning")
        self.found: dict[Part, dict[Unit, Record]] = {}
        self.weights: dict[Part, float] = {}
        self.refused: list[Refused] = []
        self.notes: list[str] = []
        self.pending: dict[Part, int] = {}
        self.computed, self.weight_done = 0, 0.0

    def execute(self) -> RunResult:
        begun = time.perf_counter()
        groups, self.refused = find_parts(self.spec, self.model, self.data, self.bench)
        self.loader.parts = any(group.parted for group in groups)
        key = digest(self.spec, self.bench.model_digest)
        self._keep(key, {}, "running")
        try:
            units = self._select_all(groups)
            known = sum(self._look_up(group, units[group]) for group in units)
            self._keep(key, units, "running")
            self._fit_memory(self.bench, max((g.area for g in units if any(self.pending[own] for own in g.parts)), default=0))
            self.started = time.perf_counter()
            for group in units:
                units[group] = self._work(group, units[group])
            if not self.found:
                raise ProtocolError(self.refused[-1][2])
            agreement = self._agreement(units) if self.spec.fast else {}
            self._tell("done")
        except Cancelled:
            self.store.set_state(key, "cancelled")
            raise
        except AttrlibError:
            self.store.set_state(key, "failed")
            raise
        self._keep(key, units, "done")
        done = [(part, units[group]) for group in units for part in group.parts if part in self.found]
        # In the order asked for: groups are those of protocols that share items.
        done.sort(key=lambda own: self.spec.protocols.index(own[0].protocol_spec))
        scores = {(part.protocol_spec, part.method_spec): self._score(part, own) for part, own in done}
        notes = tuple(dict.fromkeys([*self.notes, *self.store.notes]))
        seconds = time.perf_counter() - begun
        return RunResult(self.spec, scores, self.refused, notes, self.computed, known, seconds, agreement)

    def _select_all(self, groups: Sequence[Group]) -> dict[Group, tuple[Unit, ...]]:
        """The items of each group. A group without any is refused, with the reason, unless it is the only one."""
        units = {}
        for group in groups:
            try:
                units[group] = self._select(group)
            except DataError as error:
                self.refused += group.refused(error)
                last = error
        if not units:
            raise last
        return units

    def _select(self, group: Group) -> tuple[Unit, ...]:
        """The items of a group, after the predictions that they depend on."""
        selection, waiting = select(group, self.spec, self.model, self.data, self.bench, self.filters)
        if waiting:
            for bench, images in waiting:
                self._fit_memory(bench, 1)
                self._predict(bench, images)
            selection, _ = select(group, self.spec, self.model, self.data, self.bench, self.filters)
        self.notes += selection.notes
        return selection.units

    def _predict(self, bench: Bench, images: Sequence[Unit]) -> None:
        """What a model predicts for some images."""
        about, key = bench.measurement_key(Prediction())
        loader = self.loader if bench is self.bench else Loader(bench.model, self.data)
        chunks = _chunks(images, BATCH_SIZE)
        with loader.ahead(chunks):
            for number, chunk in enumerate(chunks):
                self.event = Event("confidence filter", number * BATCH_SIZE, len(images), of="images")
                self.watch(self.event)
                readable, batch = loader.get(chunk)
                if batch is not None:
                    bench.measure(Prediction(), batch)
                self.store.add_records(key, about, {unit.id: Record() for unit in chunk if unit not in readable})

    def _look_up(self, group: Group, units: Sequence[Unit]) -> int:
        """How many results of a group are known."""
        count = 0
        for own in group.parts:
            by_key = {unit.key(own.protocol.target_choice): unit for unit in units}
            self.found[own] = {by_key[key]: record for key, record in self.store.records(own.key, list(by_key)).items()}
            self.weights[own] = item_seconds(own, self.model, NOMINAL)
            self.pending[own] = len(units) - len(self.found[own])
            count += len(self.found[own])
        return count

    def _fit_memory(self, bench: Bench, area: float) -> None:
        if area:
            bench.setting = replace(bench.setting, rows=rows_within(bench.model, self.max_memory, area))

    def _agreement(self, units: Mapping[Group, tuple[Unit, ...]]) -> dict[MethodSpec, float]:
        """How well the fast maps of what was scored agree with the exact ones."""
        methods = {own.method_spec: own.method for group in units for own in group.parts if own in self.found}
        return map_agreement(methods, self.bench, self.data, next(iter(units.values())))

    def _work(self, group: Group, units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        """Computes what is missing of a group; the items that were used and could be read."""
        size = max(1, BATCH_SIZE // group.images)
        chunks = _chunks(units, size)
        with self.loader.ahead([chunk for chunk in chunks if any(self._missing(own, chunk) for own in group.parts)]):
            for number, chunk in enumerate(chunks):
                for own in group.parts:
                    self._compute(own, chunk, group)
                    self._leave(own, units[(number + 1) * size :])
                if self._narrow(group, units[: (number + 1) * size]):
                    units = units[: (number + 1) * size]
                    for own in group.parts:
                        self._leave(own, ())
                    break
        readable = tuple(unit for unit in units if unit.images[0] not in self.loader.failed)
        self.notes += left_out(list(self.loader.failed.values()), len(units) - len(readable))
        if not readable:
            raise DataError(f"none of the {len(units)} images of {self.data.name} can be read: {next(iter(self.loader.failed.values()))}")
        return readable

    def _leave(self, own: Part, rest: Sequence[Unit]) -> None:
        """Only the rest of a part is still to be done."""
        if own in self.pending:
            self.pending[own] = len(self._missing(own, rest))

    def _missing(self, own: Part, chunk: Sequence[Unit]) -> list[Unit]:
        return [unit for unit in chunk if unit not in self.found[own]] if own in self.found else []

    def _compute(self, own: Part, chunk: tuple[Unit, ...], group: Group) -> None:
        """Computes and stores what is missing of one part in a chunk, a few items at a time."""
        if not self._missing(own, chunk):
            return
        readable, batch = self.loader.get(chunk)
        missing = [row for row, unit in enumerate(readable) if unit not in self.found[own]]
        if batch is None or not missing:
            return
        passes = self._passes(own)
        step = max(1, PASSES_AT_ONCE // max(1, passes.forward + passes.gradient))
        for first in range(0, len(missing), step):
            rows = missing[first : first + step]
            self._tell(f"{own.protocol_spec} {own.method_spec}")
            units = [readable[row] for row in rows]
            try:
                records = self.bench.perform(own.protocol, own.method, units, part(batch, rows), self._beside(own, group, units))
            except (MethodError, LayerError, ProtocolError, OutOfMemory) as error:
                self._refuse(own, str(error))
                return
            self.store.add_records(own.key, own.about, records)
            self.found[own] |= dict(zip(units, records.values(), strict=True))
            self.computed += len(units)
            self.weight_done += len(units) * self.weights[own]
            self.pending[own] -= len(units)

    def _beside(self, own: Part, group: Group, units: Sequence[Unit]) -> list[MethodSpec]:
        """The methods of a protocol that are at the same layer and take as many passes, and may so share some; none that has begun."""
        return [
            other.method
            for other in group.parts
            if (other.protocol, other.method.layer) == (own.protocol, own.method.layer)
            and other.method != own.method
            and len(self._missing(other, units)) == len(units)
            and self._passes(other) == self._passes(own)
        ]

    def _passes(self, own: Part) -> Passes:
        return create_method(own.method).passes(self.model.layer(own.method.layer))

    def _refuse(self, own: Part, reason: str) -> None:
        """Drops a part whose method turns out not to be defined for the model."""
        del self.found[own], self.pending[own]
        self.refused.append((own.protocol_spec, own.method_spec, reason))

    def _narrow(self, group: Group, units: Sequence[Unit]) -> bool:
        """Whether the interval of every part is as narrow as was asked for."""
        if self.spec.ci_width is None:
            return False
        summaries = [self._summary(own, units) for own in group.parts if own in self.found]
        return all(s.n >= FEWEST_FOR_WIDTH and s.high - s.low <= self.spec.ci_width for s in summaries)

    def _summary(self, own: Part, units: Sequence[Unit]) -> Summary:
        values = np.array([self.found[own][unit].value for unit in units if unit in self.found[own]], dtype=np.float64)
        return summary(np.where(np.isnan(values), own.protocol.undefined_value, values))

    def _tell(self, doing: str) -> None:
        elapsed = time.perf_counter() - self.started
        weight_left = sum(count * self.weights[own] for own, count in self.pending.items())
        left = elapsed / self.weight_done * weight_left if self.weight_done else None
        scores = {(str(own.protocol_spec), str(own.method_spec)): self._summary(own, list(found)) for own, found in self.found.items()}
        rate = self.computed / elapsed if elapsed else 0.0
        self.event = Event(doing, self.computed, self.computed + sum(self.pending.values()), rate, left, scores)
        self.watch(self.event)

    def _score(self, own: Part, units: Sequence[Unit]) -> Score:
        found = self.found[own]
        used = [unit for unit in units if unit in found]
        one = replace(self.spec, protocols=(own.protocol_spec,), methods=(own.method_spec,))
        times = self.store.records(self.bench.seconds(own.method)[1], [unit.id for unit in used])
        return Score(
            one,
            own.protocol,
            np.array([found[unit].value for unit in used], dtype=np.float64),
            tuple(unit.id for unit in used),
            tuple(unit.images for unit in used),
            tuple(found[unit].details for unit in used),
            float(np.mean([record.value for record in times.values()])) if times else float("nan"),
            tuple(self.notes),
        )

    def _keep(self, key: str, units: Mapping[Group, Sequence[Unit]], state: str) -> None:
        """Writes the run's manifest."""
        parts = {
            f"{own.protocol_spec}|{own.method_spec}": {
                "key": own.key,
                "items": [unit.key(own.protocol.target_choice) for unit in used],
            }
            for group, used in units.items()
            for own in group.parts
            if own in self.found
        }
        about = {"kind": "score", "title": self.spec.cli(), "spec": self.spec, "model_digest": self.bench.model_digest}
        self.store.save_run(key, about, parts)
        self.store.set_state(key, state)


def _chunks(units: Sequence[Unit], size: int) -> list[tuple[Unit, ...]]:
    return [tuple(units[first : first + size]) for first in range(0, len(units), size)]
