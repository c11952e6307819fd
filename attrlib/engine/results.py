"""The results of a run: the score of each method under each protocol, and their ranks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.engine.cache import ResultCache
from attrlib.engine.evaluations import Refusal
from attrlib.figures.leaderboard import LeaderboardRow
from attrlib.protocols import Protocol
from attrlib.significance import Place, rank_table
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec
from attrlib.statistics import Summary, summary
from attrlib.store import Detail

READ_AHEAD = 1024
"""Number of records read at a time while iterating over details."""


class StoredDetails(Sequence[Mapping[str, Detail]]):
    """The details of a score's items, read from the store on access, since those of a large run do not fit into memory."""

    def __init__(self, cache: ResultCache, key: str, items: Sequence[str]):
        self._cache, self._key, self._items = cache, key, items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Detail]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Detail]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Detail] | Sequence[Mapping[str, Detail]]:
        if isinstance(place, slice):
            return StoredDetails(self._cache, self._key, self._items[place])
        return self._read([self._items[place]])[0]

    def __iter__(self) -> Iterator[Mapping[str, Detail]]:
        for first in range(0, len(self._items), READ_AHEAD):
            yield from self._read(self._items[first : first + READ_AHEAD])

    def _read(self, items: Sequence[str]) -> list[Mapping[str, Detail]]:
        records = self._cache.records(self._key, items)
        return [records[item].details if item in records else {} for item in items]


@dataclass(frozen=True, eq=False)
class Score:
    """The score of a method under a protocol.

    Attributes:
        spec: The run, with this protocol and method only.
        protocol: The protocol.
        values: Value of each item, (n,), NaN where undefined.
        ids: Content digest of each item.
        items: Indices in the data set of each item's images.
        details: Details of each item, by name.
        seconds: Mean seconds of one map on the model's input, NaN if unknown.
        notes: What was left out, and why.
        labels: The model's class of each item's images, -1 where unknown.
    """

    spec: RunSpec
    protocol: Protocol
    values: np.ndarray
    ids: tuple[str, ...]
    items: tuple[tuple[int, ...], ...]
    details: Sequence[Mapping[str, Detail]]
    seconds: float = float("nan")
    notes: tuple[str, ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Return a name of each item that is unique in the score, and the same in every score on the same data.

        It is the id; where an image has several labels, those after the first are numbered.
        """
        counts: Counter[str] = Counter()
        keys = []
        for item in self.ids:
            counts[item] += 1
            keys.append(item if counts[item] == 1 else f"{item}#{counts[item]}")
        return tuple(keys)

    def select(self, positions: Sequence[int]) -> "Score":
        """Return the score of some of the items, by their positions."""
        details = list(self.details)
        return replace(
            self,
            values=self.values[list(positions)],
            ids=tuple(self.ids[k] for k in positions),
            items=tuple(self.items[k] for k in positions),
            details=tuple(details[k] for k in positions),
            labels=tuple(self.labels[k] for k in positions),
        )

    @property
    def method(self) -> MethodSpec:
        """Return the method that was scored."""
        return self.spec.methods[0]

    def names(self, data: Dataset) -> tuple[str, ...]:
        """Return the name of each item in the data set: the name of its image, or of all images of its grid."""
        return tuple(" + ".join(map(data.item_name, own)) for own in self.items)

    @property
    def sign(self) -> int:
        """Return 1 if higher values are better, otherwise -1."""
        return 1 if self.protocol.higher_is_better else -1

    @property
    def counted(self) -> np.ndarray:
        """Return the values, with undefined ones replaced as the protocol counts them in the mean."""
        return np.where(np.isnan(self.values), self.protocol.undefined_value, self.values)

    @property
    def summary(self) -> Summary:
        """Return the mean, its 95 % CI and counts."""
        return summary(self.counted)

    @property
    def mean(self) -> float:
        """Return the mean over the items, which follows the protocol's policy for undefined items."""
        return self.summary.mean

    @property
    def ci95(self) -> tuple[float, float]:
        """Return the 95 % CI of the mean over items (Student's t)."""
        return self.summary.low, self.summary.high

    @property
    def undefined(self) -> int:
        """Return the number of items whose score is undefined."""
        return int(np.isnan(self.values).sum())


@dataclass(frozen=True, eq=False)
class RunResult:
    """The results of a run.

    Attributes:
        spec: The run.
        scores: The scores by protocol and method.
        refused: The evaluations that are not defined, with the reason.
        notes: What was left out, and why.
        computed: Number of results computed in this run.
        cached: Number of results that were in the store.
        seconds: Duration of the run.
        agreement: For a fast run, the rank correlation of each method's maps with the exact ones, on the first images.
        unreadable: Why items, by their id, could not be read.
    """

    spec: RunSpec
    scores: Mapping[tuple[ProtocolSpec, MethodSpec], Score]
    refused: Sequence[Refusal] = ()
    notes: tuple[str, ...] = ()
    computed: int = 0
    cached: int = 0
    seconds: float = 0.0
    agreement: Mapping[MethodSpec, float] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def protocols(self) -> tuple[ProtocolSpec, ...]:
        """Return the protocols that have scores, in the order of the spec."""
        return tuple(dict.fromkeys(protocol for protocol, _ in self.scores))

    def of_protocol(self, protocol: ProtocolSpec | str) -> dict[MethodSpec, Score]:
        """Return the scores under a protocol by method."""
        return {method: score for (each, method), score in self.scores.items() if str(each) == str(protocol)}

    def of_method(self, method: MethodSpec | str) -> dict[ProtocolSpec, Score]:
        """Return the scores of a method by protocol."""
        return {protocol: score for (protocol, each), score in self.scores.items() if str(each) == str(method)}

    def score(self, protocol: ProtocolSpec | str, method: MethodSpec | str) -> Score | None:
        """Return the score of a method under a protocol, None if there is none."""
        return next((score for each, score in self.of_protocol(protocol).items() if str(each) == str(method)), None)

    def of_item(self, item: str) -> dict[tuple[ProtocolSpec, MethodSpec], float]:
        """Return the value of one item, by its key, under each protocol and method that scored it; see `Score.keys`."""
        places = {pair: score.keys.index(item) for pair, score in self.scores.items() if item in score.keys}
        return {pair: float(self.scores[pair].values[place]) for pair, place in places.items()}

    def places(self, protocol: ProtocolSpec) -> list[Place]:
        """Return the methods under a protocol, best first, with the range of ranks of each."""
        scores = self.of_protocol(protocol)
        better = next(iter(scores.values())).protocol.higher_is_better
        return rank_table({str(method): score.counted for method, score in scores.items()}, better)

    def leaderboard(self, protocol: ProtocolSpec) -> list[LeaderboardRow]:
        """Return one row for each method under a protocol, best first."""
        scores = {str(method): score for method, score in self.of_protocol(protocol).items()}
        return [_row(protocol, scores[place.name], place) for place in self.places(protocol)]

    def table(self) -> list[dict[str, object]]:
        """Return the leaderboards of all protocols as plain rows, as for a data frame: mean, 95 % CI, ranks, counts, seconds of one map."""
        return [row.values() for protocol in self.protocols for row in self.leaderboard(protocol)]


def _row(protocol: ProtocolSpec, score: Score, place: Place) -> LeaderboardRow:
    mean = place.summary
    return LeaderboardRow(
        protocol=str(protocol), method=place.name, mean=mean.mean, low=mean.low, high=mean.high, first=place.first, last=place.last,
        n=len(score.values), undefined=score.undefined, seconds=score.seconds, chance=score.protocol.chance_level,
    )  # fmt: skip
