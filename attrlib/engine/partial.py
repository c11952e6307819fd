"""The results of a run that is not finished, and the items that have results."""

import numpy as np

from attrlib.engine.evaluations import Evaluation
from attrlib.engine.plan import GroupPlan
from attrlib.engine.work import UnitResult
from attrlib.statistics import RunningSummary


class PartialResults:
    """The results of one evaluation so far."""

    def __init__(self, evaluation: Evaluation, plan: GroupPlan, weight: float):
        self.evaluation, self.weight = evaluation, weight
        self.values, self.done = plan.values[evaluation].copy(), plan.cached[evaluation].copy()
        self._expected = ~self.done
        self.missing = int(self._expected.sum())
        self.running = RunningSummary()
        self.running.add(self.counted(self.done))

    def counted(self, chosen: np.ndarray | slice) -> np.ndarray:
        """Return the chosen values, with undefined ones replaced as the protocol counts them in the mean."""
        values = self.values[chosen]
        return np.where(np.isnan(values), self.evaluation.protocol.undefined_value, values)

    def add(self, first: int, result: UnitResult) -> None:
        """Add results of the chunk that starts at item `first`."""
        positions = np.array(list(result.values), dtype=int) + first
        self.values[positions], self.done[positions] = list(result.values.values()), True
        self.running.add(self.counted(positions))
        self._expected[positions] = False
        self.missing -= len(positions)

    def give_up(self, items: slice) -> None:
        """Count the missing results of some items as not needed: the items cannot be read, or the run stops before them."""
        self.missing -= int(self._expected[items].sum())
        self._expected[items] = False


class ScoredItems:
    """The items of a group that have a result, in the form in which scores share them."""

    def __init__(self, plan: GroupPlan, done: np.ndarray):
        self.done = done
        positions = np.flatnonzero(done).tolist()
        self.ids = tuple(plan.items[position].id for position in positions)
        self.images = tuple(plan.items[position].images for position in positions)
        self.labels = tuple(plan.items[position].labels for position in positions)
        self.keys = tuple(plan.keys[position] for position in positions)
