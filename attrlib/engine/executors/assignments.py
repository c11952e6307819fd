"""Units in the hands of workers: what is left of a unit whose worker died is handed out again.

Units are not split by items: float32 kernels choose their order of additions by the size of the batch, so that other batches would
change the last bits of results.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from attrlib.engine.evaluations import Evaluation
from attrlib.engine.work import PredictUnit, UnitResult, WorkUnit

DEATHS = 3
"""Number of workers that a unit may end, without a new result in between, before it is set aside."""


@dataclass(eq=False)
class Assignment:
    """A unit, and how far its execution has come.

    Attributes:
        number: Index of the unit among those of the executor.
        unit: The unit.
        done: Positions with results, by evaluation.
        deaths: Why workers ended that executed it, since its last result.
        sent: The unit as it was last handed out.
    """

    number: int
    unit: WorkUnit
    done: dict[Evaluation, set[int]] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)
    sent: WorkUnit | None = None

    @property
    def images(self) -> set[str]:
        """Return the ids of the items."""
        return {item.id for item in self.unit.items}

    def remaining(self, refused: AbstractSet[Evaluation]) -> WorkUnit | None:
        """Return the unit without the results that have arrived and the evaluations that are refused; None if nothing is left."""
        self.sent = self.unit
        if not isinstance(self.unit, PredictUnit):
            left = ((each, tuple(p for p in positions if p not in self.done.get(each, ()))) for each, positions in self.unit.missing)
            missing = tuple((each, positions) for each, positions in left if positions and each not in refused)
            self.sent = replace(self.unit, missing=missing) if missing else None
        return self.sent

    def evaluation(self, result: UnitResult) -> Evaluation:
        """Return the evaluation of a result of the unit as it was last handed out."""
        assert self.sent is not None
        assert not isinstance(self.sent, PredictUnit)
        return self.sent.missing[result.evaluation][0]

    def take(self, result: UnitResult) -> UnitResult:
        """Record a result of the unit as it was last handed out, and return it as one of the whole unit."""
        if isinstance(self.unit, PredictUnit) or not (result.values or result.refused):
            return replace(result, unit=self.number)
        each = self.evaluation(result)
        self.done.setdefault(each, set()).update(result.values)
        if result.computed:
            self.deaths.clear()
        return replace(result, unit=self.number, evaluation=[other for other, _ in self.unit.missing].index(each))
