"""What comes out of a run: a score for each protocol and method, and what can be said of the methods together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.protocols import Protocol
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec
from attrlib.statistics import Difference, Place, Summary, paired_difference, rank_table, summary


@dataclass(frozen=True, eq=False)
class Score:
    """A method's score under a protocol: `values` (n,), one for each item, NaN where undefined, `ids` and `details` alike.

    `items` are the positions in the data set that each item is made of; `seconds` those of one map on the model's input;
    `notes` what was left out and why. `mean` follows the protocol's policy for undefined items.
    """

    spec: RunSpec
    protocol: Protocol
    values: np.ndarray
    ids: tuple[str, ...]
    items: tuple[tuple[int, ...], ...]
    details: tuple[Mapping[str, float | Sequence[float]], ...]
    seconds: float = float("nan")
    notes: tuple[str, ...] = ()

    @property
    def method(self) -> MethodSpec:
        """The method that was scored."""
        return self.spec.methods[0]

    def names(self, data: Dataset) -> tuple[str, ...]:
        """What each item is called in the data: its picture, or those of its grid."""
        return tuple(" + ".join(map(data.item_name, own)) for own in self.items)

    @property
    def counted(self) -> np.ndarray:
        """The values as they count in the mean."""
        return np.where(np.isnan(self.values), self.protocol.undefined_value, self.values)

    @property
    def summary(self) -> Summary:
        """Mean, 95 % interval and counts."""
        return summary(self.counted)

    @property
    def mean(self) -> float:
        """Mean over the items."""
        return self.summary.mean

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % interval of the mean over items, Student's t."""
        return self.summary.low, self.summary.high

    @property
    def undefined(self) -> int:
        """Items on which the score is undefined."""
        return int(np.isnan(self.values).sum())


@dataclass(frozen=True, eq=False)
class RunResult:
    """The scores of a run by protocol and method, what was `refused` with the reason, and notes.

    `computed` counts the items computed in this run, `known` those that were in the store. `agreement` is, for a fast run, the
    rank correlation of each method's maps with the exact ones, on the first images.
    """

    spec: RunSpec
    scores: Mapping[tuple[ProtocolSpec, MethodSpec], Score]
    refused: Sequence[tuple[ProtocolSpec, MethodSpec, str]] = ()
    notes: tuple[str, ...] = ()
    computed: int = 0
    known: int = 0
    seconds: float = 0.0
    agreement: Mapping[MethodSpec, float] = field(default_factory=dict)

    def places(self, protocol: ProtocolSpec) -> list[Place]:
        """The methods under a protocol, best first, with the ranks that each may hold."""
        of_protocol = {str(method): score for (own, method), score in self.scores.items() if own == protocol}
        better = next(iter(of_protocol.values())).protocol.higher_is_better
        return rank_table({name: score.counted for name, score in of_protocol.items()}, better)

    def differences(self, protocol: ProtocolSpec) -> dict[tuple[MethodSpec, MethodSpec], Difference]:
        """Of each pair of methods how much higher the first scores on the same items, with its bootstrap interval."""
        of_protocol = {method: score for (own, method), score in self.scores.items() if own == protocol}
        return {(a, b): paired_difference(of_protocol[a].counted, of_protocol[b].counted) for a, b in combinations(of_protocol, 2)}

    def table(self) -> list[dict[str, object]]:
        """One row for each protocol and method, best first: mean, interval, ranks, counts, seconds for a map."""
        rows: list[dict[str, object]] = []
        for protocol in dict.fromkeys(own for own, _ in self.scores):
            by_name = {str(method): score for (own, method), score in self.scores.items() if own == protocol}
            for place in self.places(protocol):
                score = by_name[place.name]
                rows.append(
                    {
                        "protocol": str(protocol),
                        "method": place.name,
                        "mean": score.mean,
                        "low": score.ci95[0],
                        "high": score.ci95[1],
                        "first": place.first,
                        "last": place.last,
                        "n": len(score.values),
                        "undefined": score.undefined,
                        "seconds": score.seconds,
                    }
                )
        return rows
