"""The cache of a worker: its own memory for the unit in progress, and the run's store at the driver."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.executors.messages import AddMaps, AddRecords
from attrlib.store import Record


class RemoteCache:
    """Read from memory, then from the run's store; write to both.

    Args:
        dtype: Precision of cached maps: float32 or float16.
        ask: Called with the kind of entries and the arguments of the store's method; returns its answer.
        send: Called with additions for the store.
    """

    def __init__(self, dtype: str, ask: Callable[..., Any], send: Callable[[AddRecords | AddMaps], None]):
        self.dtype, self._ask, self._send = dtype, ask, send
        self._memory = InMemoryCache(dtype)

    def clear(self) -> None:
        """Forget what is in memory. Later units read it from the run's store."""
        self._memory = InMemoryCache(self.dtype)

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the cached records among these items."""
        if missing := self._missing(items, self._memory.records(key, items)):
            self._memory.add_records(key, {}, self._ask("records", key, missing))
        return self._memory.records(key, items)

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return the values of the cached records among these items, without details."""
        values = self._memory.values(key, items)
        if missing := self._missing(items, values):
            values |= self._ask("values", key, missing)
        return values

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Add records by item; `key` is the digest of `spec`."""
        self._memory.add_records(key, spec, records)
        self._send(AddRecords(key, spec, dict(records)))

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps among these keys, float32 (1,h,w) each."""
        if missing := self._missing(keys, self._memory.maps(keys)):
            self._memory.add_maps({key: torch.tensor(values) for key, values in self._ask("maps", missing).items()})
        return self._memory.maps(keys)

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps (1,h,w) by key."""
        placed = {key: values.detach().cpu() for key, values in maps.items()}
        self._memory.add_maps(placed)
        self._send(AddMaps({key: values.numpy() for key, values in placed.items()}))

    def rounded(self, maps: Tensor) -> Tensor:
        """Return maps at the precision at which the run's store keeps them."""
        return self._memory.rounded(maps)

    @staticmethod
    def _missing(wanted: Sequence[str], found: Mapping[str, object]) -> list[str]:
        return [each for each in wanted if each not in found]
