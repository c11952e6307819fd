"""Share the units of a run with other processes: each item is claimed before it is computed, so that nothing is computed twice."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from attrlib.engine.cache import ResultCache
from attrlib.engine.executors import Executor
from attrlib.engine.work import EvaluateUnit, Heartbeat, PredictUnit, UnitResult, WorkUnit
from attrlib.store import Claims, Pairs

UNITS_PER_WORKER = 4
"""Smallest number of units that a process claims at once for each of its workers."""
SHORT, LONG = 30.0, 120.0
"""Seconds that the units claimed at once should take: fewer are claimed next time if they take longer, more if they do not."""
PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two looks at what others have computed: at first, and at most."""


@dataclass(frozen=True)
class _Remainder:
    """What is left of a unit.

    Attributes:
        unit: The unit without what is stored.
        indices: Index of each of its evaluations in the whole unit.
    """

    unit: WorkUnit
    indices: tuple[int, ...]


class ClaimingExecutor:
    """Execute units with another executor, except for those that other processes compute.

    Units that others have claimed wait until their results are in the store, or until the claims expire.

    Args:
        inner: Executes the units that this process has claimed.
        claims: The claims of this process.
        store: The store that the processes share.
        prediction_keys: Key of the predictions of each model.
        heartbeat: Called several times a second while there is nothing to do but wait; raises `Cancelled` to stop.
    """

    def __init__(self, inner: Executor, claims: Claims, store: ResultCache, prediction_keys: Sequence[str], heartbeat: Heartbeat):
        self._inner, self._claims, self._store = inner, claims, store
        self._prediction_keys, self._heartbeat = prediction_keys, heartbeat
        self._size = 0

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of units of one kind, computed here or elsewhere."""
        waiting = {number: self._whole(unit) for number, unit in enumerate(units)}
        pause = PAUSE
        self._claims.sweep()
        with self._claims.renewed():
            while waiting:
                mine = yield from self._take(waiting)
                if mine:
                    pause = PAUSE
                    yield from self._execute(mine)
                elif waiting:
                    self._heartbeat("waiting for other processes")
                    time.sleep(pause)
                    self._claims.sweep()
                    pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def workers(self) -> int:
        """Return the number of workers of this process."""
        return self._inner.workers

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on workers of this process."""
        return self._inner.notes

    def close(self) -> None:
        """Close the inner executor."""
        self._inner.close()

    def _whole(self, unit: WorkUnit) -> _Remainder:
        indices = () if isinstance(unit, PredictUnit) else tuple(range(len(unit.missing)))
        return _Remainder(unit, indices)

    def _pairs(self, unit: WorkUnit) -> Pairs:
        """Return the items of a unit by the key of their records. They are made when they are needed, as those of a large run are many."""
        if isinstance(unit, PredictUnit):
            return {self._prediction_keys[unit.model]: [item.id for item in unit.items]} if unit.items else {}
        names = {choice: [item.key(choice) for item in unit.items] for choice in {each.protocol.target_choice for each, _ in unit.missing}}
        return {each.key: [names[each.protocol.target_choice][position] for position in positions] for each, positions in unit.missing}

    def _take(self, waiting: dict[int, _Remainder]) -> Generator[UnitResult, None, dict[int, _Remainder]]:
        """Claim some of the units, and return them. Yield the results of those that are stored. The others come last next time."""
        self._size = max(self._size, UNITS_PER_WORKER * max(1, self._inner.workers))
        mine: dict[int, _Remainder] = {}
        numbers = list(waiting)
        for first in range(0, len(numbers), self._size):
            window = numbers[first : first + self._size]
            yield from self._stored(waiting, window)
            asked = {number: waiting.pop(number) for number in window if number in waiting}
            granted = self._claims.claim([self._pairs(each.unit) for each in asked.values()])
            for (number, each), own in zip(asked.items(), granted, strict=True):
                (mine if own else waiting)[number] = each
            if 2 * len(mine) >= self._size:
                break
        return mine

    def _stored(self, waiting: dict[int, _Remainder], window: Sequence[int]) -> Iterator[UnitResult]:
        """Yield the results of some units that are in the store, and leave what is missing of them."""
        items: dict[str, list[str]] = {}
        pairs = {number: self._pairs(waiting[number].unit) for number in window}
        for unit in pairs.values():
            for key, own in unit.items():
                items.setdefault(key, []).extend(own)
        stored = {key: self._store.values(key, own) for key, own in items.items()}
        for number in window:
            each, own_pairs = waiting[number], pairs[number]
            if not any(item in stored[key] for key, own in own_pairs.items() for item in own):
                continue
            for index, values in self._values(each, own_pairs, stored):
                yield UnitResult(number, index, values)
            waiting[number] = self._without(each, own_pairs, stored)
            if not self._pairs(waiting[number].unit):
                del waiting[number]
                yield UnitResult(number, finished=True)

    def _values(self, each: _Remainder, pairs: Pairs, stored: dict[str, dict[str, float]]) -> Iterator[tuple[int, dict[int, float]]]:
        if isinstance(each.unit, EvaluateUnit):
            for index, (evaluation, positions) in zip(each.indices, each.unit.missing, strict=True):
                known = stored[evaluation.key]
                keys = zip(positions, pairs[evaluation.key], strict=True)
                values = {position: known[key] for position, key in keys if key in known}
                if values:
                    yield index, values

    def _without(self, each: _Remainder, pairs: Pairs, stored: dict[str, dict[str, float]]) -> _Remainder:
        """Return a unit without the results that are stored."""
        unit = each.unit
        if isinstance(unit, PredictUnit):
            known = stored[self._prediction_keys[unit.model]]
            return _Remainder(replace(unit, items=tuple(item for item in unit.items if item.id not in known)), ())
        missing, indices = [], []
        for index, (evaluation, positions) in zip(each.indices, unit.missing, strict=True):
            keys = zip(positions, pairs[evaluation.key], strict=True)
            rest = tuple(position for position, key in keys if key not in stored[evaluation.key])
            if rest:
                missing.append((evaluation, rest))
                indices.append(index)
        return _Remainder(replace(unit, missing=tuple(missing)), tuple(indices))

    def _execute(self, mine: dict[int, _Remainder]) -> Iterator[UnitResult]:
        """Execute claimed units, and release the claims when all are stored."""
        numbers, start = list(mine), time.monotonic()
        try:
            with closing(self._inner.map([mine[number].unit for number in numbers])) as results:
                for result in results:
                    number = numbers[result.unit]
                    indices = mine[number].indices
                    yield replace(result, unit=number, evaluation=indices[result.evaluation] if indices else 0)
        finally:
            self._claims.release([self._pairs(each.unit) for each in mine.values()])
        seconds = time.monotonic() - start
        if seconds < SHORT:
            self._size *= 2
        elif seconds > LONG:
            self._size //= 2
