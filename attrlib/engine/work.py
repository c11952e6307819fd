"""Units of work as plain data, and the worker that executes them in this process, another process, or on another machine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluations import Evaluation
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.foreign import explainer
from attrlib.engine.items import EvalItem
from attrlib.engine.loader import Loader, take
from attrlib.engine.memory import rows_within
from attrlib.errors import LayerError, MethodError, OutOfMemory, ProtocolError
from attrlib.protocols import Batch, Prediction
from attrlib.specs import MethodSpec
from attrlib.specs.maps import are_maps
from attrlib.store import Record

PASSES_PER_STEP = 512
"""Maximum number of passes between two results of a unit, so that items of expensive methods are stored and shown one by one."""


@dataclass(frozen=True)
class PredictUnit:
    """Predict the class of some images.

    Attributes:
        items: The images.
        model: Index of the model: 0 for the run's model, then its filter models.
    """

    items: tuple[EvalItem, ...]
    model: int


@dataclass(frozen=True)
class EvaluateUnit:
    """Score some items.

    Attributes:
        items: The items, loaded together.
        missing: Each evaluation with the positions in `items` whose results are missing.
        area: Size of the largest input to explain in the run, as a multiple of the model's input size; it decides how many rows fit
            into memory.
    """

    items: tuple[EvalItem, ...]
    missing: tuple[tuple[Evaluation, tuple[int, ...]], ...]
    area: float = 1.0


WorkUnit = PredictUnit | EvaluateUnit


@dataclass(frozen=True)
class UnitResult:
    """The result of one step of a unit. Its records are in the cache before it is yielded.

    Attributes:
        unit: Index of the unit among those given to the executor.
        evaluation: Index of the evaluation among those of the unit.
        values: Value of each item by its position in the unit, NaN where undefined.
        computed: How many values were computed; the others were cached.
        refused: Why the evaluation is not defined; empty if it is.
        unreadable: Why items, by their id, could not be read.
        set_aside: Why items, by their id, were given up although results are missing: computing them ended several workers.
        finished: Whether this is the unit's last result.
    """

    unit: int
    evaluation: int = 0
    values: Mapping[int, float] = field(default_factory=dict)
    computed: int = 0
    refused: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False


Heartbeat = Callable[[str], None]
"""A function called every few passes with what is being computed; it raises `Cancelled` to stop."""


class Worker:
    """Execute units with loaded models and data.

    Args:
        evaluators: Evaluators of the run's model and of each filter model.
        data: The data set.
        max_memory: Maximum memory in bytes, weights included; None for half of the free memory.
        heartbeat: Called every few passes.

    Attributes:
        data: The data set.
    """

    def __init__(self, evaluators: Sequence[Evaluator], data: Dataset, max_memory: int | None, heartbeat: Heartbeat):
        self._doing = ""
        self.data = data
        self._heartbeat, self._max_memory = heartbeat, max_memory
        self._evaluators = [each.reporting_to(lambda _done, _total: heartbeat(self._doing)) for each in evaluators]
        self._refused: set[Evaluation] = set()

    def key_fields(self, evaluation: Evaluation) -> dict[str, object]:
        """Return the fields that the scores of an evaluation depend on besides their item, with the models and the code of this process."""
        return self._evaluators[0].keys.score(evaluation.protocol, evaluation.method)

    def loader(self, units: Sequence[WorkUnit]) -> Loader:
        """Return a loader for units, which must be of one kind and model."""
        first = units[0]
        if isinstance(first, PredictUnit):
            return self._evaluators[first.model].loader(self.data)
        return self._evaluators[0].loader(self.data, {each.protocol for unit in units for each, _ in unit.missing})  # type: ignore[union-attr]

    def execute(self, number: int, unit: WorkUnit, loader: Loader) -> Iterator[UnitResult]:
        """Execute a unit step by step, and yield the result of each step.

        If an evaluation is not defined, its error is a result; all other errors are raised.

        Args:
            number: Index of the unit, repeated in its results.
            unit: The unit.
            loader: Loads the items.
        """
        if isinstance(unit, PredictUnit):
            self._predict(unit, loader)
        else:
            yield from self._evaluate(number, unit, loader)
        loader.skip(unit.items)
        unreadable = {item.id: loader.unreadable[item.id] for item in unit.items if item.id in loader.unreadable}
        yield UnitResult(number, unreadable=unreadable, finished=True)

    def _predict(self, unit: PredictUnit, loader: Loader) -> None:
        evaluator = self._evaluators[unit.model]
        self._report("confidence filter")
        readable, batch = loader.get(unit.items)
        if batch is not None:
            evaluator.with_rows(rows_within(evaluator.model, self._max_memory)).measure(Prediction(), batch)
        key_fields, key = evaluator.keys.measurement(Prediction())
        # A prediction without a class marks an image that cannot be read.
        evaluator.cache.add_records(key, key_fields, {item.id: Record() for item in unit.items if item not in readable})

    def _evaluate(self, number: int, unit: EvaluateUnit, loader: Loader) -> Iterator[UnitResult]:
        evaluator = self._evaluators[0]
        evaluator = evaluator.with_rows(rows_within(evaluator.model, self._max_memory, unit.area))
        missing = {each: list(positions) for each, positions in unit.missing if each not in self._refused}
        for index, (each, _) in enumerate(unit.missing):
            if each not in missing:
                continue
            cached = self._cached(each, unit, missing[each])
            if cached:
                missing[each] = [position for position in missing[each] if position not in cached]
                yield UnitResult(number, index, cached)
            if not missing[each]:
                continue
            readable, batch = loader.get(unit.items)
            if batch is None:
                return
            row_of = {unit.items.index(item): row for row, item in enumerate(readable)}
            todo = [position for position in missing[each] if position in row_of]
            for positions in self._steps(each, todo):
                self._report(str(each))
                items = [unit.items[position] for position in positions]
                together = self._together(each, missing, positions)
                try:
                    records = self._score(evaluator, each, items, take(batch, [row_of[p] for p in positions]), together)
                except (MethodError, LayerError, ProtocolError, OutOfMemory) as error:
                    self._refused.add(each)
                    del missing[each]
                    yield UnitResult(number, index, refused=str(error))
                    break
                missing[each] = [position for position in missing[each] if position not in positions]
                values = {position: record.value for position, record in zip(positions, records.values(), strict=True)}
                yield UnitResult(number, index, values, computed=len(values))

    def _score(
        self, evaluator: Evaluator, each: Evaluation, items: Sequence[EvalItem], batch: Batch, together: Sequence[MethodSpec]
    ) -> dict[str, Record]:
        explain = explainer(evaluator, each.method, items, self.data, together)
        records = evaluator.evaluate(each.protocol, items, batch, explain, each.method)
        evaluator.cache.add_records(each.key, each.key_fields, records)
        return records

    def _cached(self, each: Evaluation, unit: EvaluateUnit, positions: Sequence[int]) -> dict[int, float]:
        """Return the values that another run has computed since this one was planned."""
        keys = {unit.items[position].key(each.protocol.target_choice): position for position in positions}
        return {keys[key]: value for key, value in self._evaluators[0].cache.values(each.key, list(keys)).items()}

    def _steps(self, each: Evaluation, positions: Sequence[int]) -> Iterator[list[int]]:
        passes = each.passes(self._evaluators[0].model)
        step = max(1, PASSES_PER_STEP // max(1, passes.forward + passes.gradient))
        return (list(positions[first : first + step]) for first in range(0, len(positions), step))

    def _together(self, each: Evaluation, missing: Mapping[Evaluation, Sequence[int]], positions: Sequence[int]) -> list[MethodSpec]:
        """Return the methods that may share passes: same protocol, layer and number of passes, and no result for these items yet."""
        model = self._evaluators[0].model
        return [
            other.method
            for other in missing
            if (other.protocol, other.method.layer) == (each.protocol, each.method.layer)
            and other.method != each.method
            and not are_maps(other.method)
            and set(positions) <= set(missing[other])
            and other.passes(model) == each.passes(model)
        ]

    def _report(self, doing: str) -> None:
        self._doing = doing
        self._heartbeat(doing)
